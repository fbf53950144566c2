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

# A length that nothing reaches gives an arm a key of its own, and the same work; for 4 all is too long.
SPEC = """\
experiment: arms
axes:
  length: [128, 127, 4]
models:
  fresh: {init: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, max_positions: 128}}
sources:
  documents: {kind: world, what: documents, size: 200}
stages:
  corpus: {kind: prepare, source: documents}
  tune: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 8, checkpoint_every: 4, batch_size: 4,
         learning_rate: 1e-3, max_length: "${length}", max_prompt_length: 2, truncation: drop,
         resources: {gpus: 1, minutes: 10}}
"""
SITE = """\
partitions: {main: {whole_nodes: true, cpus: 8, gpus: 4, gpu_type: a100}}
environment: {ALIGNC_RESUME_EVERY_S: "1"}
"""


def nodes(folder: Path) -> dict[str, dict[str, Any]]:
    told = json.loads(
        alignc("status", "arms.yaml", "--store", "s", "--format", "json", cwd=folder, errors=False)
    )
    return {node["id"]: node for node in told["nodes"]}


def test_arms_share_a_node_and_nothing_else(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "arms.yaml").write_text(SPEC)
    (tmp_path / "site.yaml").write_text(SITE)
    store = Store(tmp_path / "s")
    alignc("run", "arms.yaml", "--store", "s", "--select", "corpus", cwd=tmp_path)
    words = ("arms.yaml", "--store", "s", "--cluster", "site.yaml")
    assert "arms.tune: 3 arms in 1 task, 3 side by side on a node; 1 idle GPU" in alignc(
        "plan", *words, cwd=tmp_path
    )
    assert "(one job)" in alignc("submit", *words, cwd=tmp_path)
    keys = {id_: node["key"] for id_, node in nodes(tmp_path).items()}
    first = {n: keys[f"tune[length={n},epoch=4]"] for n in (128, 127, 4)}

    # Both are held in the middle of their work: they are there at the same time.
    held: dict[int, dict[str, Any]] = {}

    def hold() -> bool:
        for length in {128, 127} - held.keys():
            owner = owner_of(store.claim_folder(first[length]))
            if owner and store.progress(first[length]).exists():
                os.kill(owner["pid"], signal.SIGSTOP)
                held[length] = owner
        return len(held) == 2

    until(hold, "two arms in the middle of their work")
    until(lambda: store.failure(first[4]).exists(), "the failure of the third")
    assert len({owner["pid"] for owner in held.values()}) == 2
    assert len({(owner["task"], owner["node"]) for owner in held.values()}) == 1
    seen = [Path(f"/proc/{owner['pid']}/environ").read_text().split("\0") for owner in held.values()]
    devices = {word for words in seen for word in words if word.startswith("CUDA_VISIBLE_DEVICES=")}
    assert len(devices) == 2 and not any("," in each for each in devices)
    told = nodes(tmp_path)
    phases = [told[f"tune[length={n},epoch=4]"]["phase"] for n in (128, 127, 4)]
    assert phases == ["running", "running", "failed"]
    assert "nothing to train on" in alignc(
        "logs", "arms.yaml", "tune[length=4,epoch=4]", "--store", "s", cwd=tmp_path
    )

    # Their time is about to end: both save, and the task goes on in another turn, under the same id.
    job = next(owner["task"] for owner in held.values())
    slurm.command("scancel", "--batch", "--signal=USR2", job)
    for owner in held.values():
        os.kill(owner["pid"], signal.SIGCONT)
    until(lambda: not slurm.command("squeue", "-h", "-j", job), "the second turn")
    told = nodes(tmp_path)
    phases = [told[f"tune[length={n},epoch=8]"]["phase"] for n in (128, 127, 4)]
    assert phases == ["done", "done", "blocked"]
    logs = {n: store.log(first[n]).read_text() for n in (128, 127)}
    assert all("warned by SIGUSR2" in log and log.count("== ") == 2 for log in logs.values()), logs
    weights = {p.read_bytes() for p in store.root.glob("sft/*/model/model.safetensors")}
    assert len(weights) == 2  # those of two checkpoints, each made by two arms
    manifest = read_json(store.artifact("sft", keys["tune[length=128,epoch=8]"]) / "manifest.json")
    asked, used = manifest["resources"]["asked"], manifest["resources"]
    assert asked["gpus"] == 1
    assert used["gpu_hours"] == pytest.approx(4 / 3 * used["used"]["wall_s"] / 3600)  # the fourth is paid too
