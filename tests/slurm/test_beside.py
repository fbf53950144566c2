"""Arms side by side on one whole node of a real cluster: what each is given, how each ends, one requeue."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from runtime.claims import owner_of
from runtime.files import read_json
from runtime.store import Store
from tests.commands import alignc
from tests.conftest import Cluster
from tests.slurm.test_stops import until

pytestmark = pytest.mark.slurm

# The teachers answer alike, but for one that cannot be asked.
SPEC = """\
experiment: arms
axes:
  teacher: [one, two, bad]
llms:
  one: {provider: simulated}
  two: {provider: simulated, seed: 1}
  bad: {provider: openai, model: m-2024-01-01, api_key_env: NOBODY_HAS_THIS}
sources:
  tasks: {kind: world, size: 30000}
stages:
  prompts: {kind: prepare, source: tasks}
  ask: {kind: demonstrate, prompts: prompts, teacher: "${teacher}", resources: {gpus: 1, minutes: 10}}
"""
SITE = """\
partitions: {main: {whole_nodes: true, cpus: 8, gpus: 4, gpu_type: a100}}
"""


def nodes(folder: Path) -> dict[str, dict[str, Any]]:
    words = ("status", "arms.yaml", "--store", "s", "--format", "json")
    told = json.loads(alignc(*words, cwd=folder, errors=False))
    return {node["id"]: node for node in told["nodes"]}


def test_arms_share_a_node_and_nothing_else(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "arms.yaml").write_text(SPEC)
    (tmp_path / "site.yaml").write_text(SITE)
    store = Store(tmp_path / "s")
    alignc("run", "arms.yaml", "--store", "s", "--select", "prompts", cwd=tmp_path)
    words = ("arms.yaml", "--store", "s", "--cluster", "site.yaml")
    planned = alignc("plan", *words, cwd=tmp_path)
    assert "3 arms in 1 task, side by side; idle GPUs are paid for, 0.167 GPU-hours at most" in planned
    assert "arms.ask as Slurm job" in alignc("submit", *words, cwd=tmp_path)
    keys = {name: nodes(tmp_path)[f"ask[teacher={name}]"]["key"] for name in ("one", "two", "bad")}

    # Two are held in the middle of their work: they are there at the same time.
    held: dict[str, dict[str, Any]] = {}

    def hold() -> bool:
        for name in {"one", "two"} - held.keys():
            owner = owner_of(store.claim_folder(keys[name]))
            if owner and store.progress(keys[name]).exists():
                os.kill(owner["pid"], signal.SIGSTOP)
                held[name] = owner
        return len(held) == 2

    until(hold, "two arms in the middle of their work")
    until(lambda: store.failure(keys["bad"]).exists(), "the failure of the third")
    assert len({(owner["task"], owner["node"]) for owner in held.values()}) == 1
    seen = [Path(f"/proc/{owner['pid']}/environ").read_text().split("\0") for owner in held.values()]
    devices = {word for words in seen for word in words if word.startswith("CUDA_VISIBLE_DEVICES=")}
    assert len(devices) == 2 and not any("," in each for each in devices)
    phases = {id_: node["phase"] for id_, node in nodes(tmp_path).items()}
    assert [phases[f"ask[teacher={name}]"] for name in keys] == ["running", "running", "failed"]
    log = alignc("logs", "arms.yaml", "ask[teacher=bad]", "--store", "s", cwd=tmp_path)
    assert "NOBODY_HAS_THIS is not set" in log

    # Their time is about to end: both save, and the task takes another turn under the same id.
    job = held["one"]["task"]
    slurm.command("scancel", "--batch", "--signal=USR2", job)
    for owner in held.values():
        os.kill(owner["pid"], signal.SIGCONT)
    slurm.wait_until_empty("-j", job)
    told = nodes(tmp_path)
    assert [told[f"ask[teacher={name}]"]["phase"] for name in keys] == ["done", "done", "failed"]
    logs = {name: store.log(keys[name]).read_text() for name in held}
    assert all("warned by SIGUSR2" in log and log.count("\n== ") == 1 for log in logs.values()), logs
    assert len({p.read_bytes() for p in store.root.glob("demonstrate/*/data.jsonl")}) == 1
    spent = read_json(store.artifact("demonstrate", keys["one"]) / "manifest.json")["resources"]
    assert spent["asked"]["gpus"] == 1
    assert (
        spent["gpu_hours"] > 4 / 3 * spent["used"]["wall_s"] / 3600
    )  # its share of the fourth, in both turns
