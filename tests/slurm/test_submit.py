"""`alignc submit` on a real cluster: the same keys and tables as `run`, nothing twice, gaps filled."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commands import alignc, artifacts, tables
from tests.conftest import Cluster
from tests.specs import LIGHT, TINY

pytestmark = pytest.mark.slurm


def status(spec: str, store: str, cwd: Path) -> dict[str, Any]:
    """What `alignc status` tells as JSON."""
    words = ("status", spec, "--store", store, "--format", "json")
    told: dict[str, Any] = json.loads(alignc(*words, cwd=cwd, errors=False))
    return told


def in_queue() -> list[str]:
    """The jobs that are queued or running; none where Slurm does not answer."""
    return subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.splitlines()


def wait_for(spec: str, store: str, cwd: Path, seconds: float = 240) -> dict[str, str]:
    """Until no node is queued, running, waiting or unknown; returns node -> phase.

    Slurm is asked until its queue is empty, for that is cheap: each `alignc` takes a core for about a second.
    """
    deadline = time.monotonic() + seconds
    while in_queue() and time.monotonic() < deadline:
        time.sleep(0.3)
    while True:
        told = status(spec, store, cwd)
        phases = {n["id"]: n["phase"] for n in told["nodes"]}
        if not {"queued", "running", "waiting", "unknown"} & set(phases.values()):
            return phases
        assert time.monotonic() < deadline, json.dumps(told, indent=1)
        time.sleep(1)


def test_submit_makes_what_run_makes(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    alignc("run", "light.yaml", "--store", "local", cwd=tmp_path)
    # A blank in the path: it goes into scripts, and must arrive.
    told = alignc("submit", "light.yaml", "--store", "on slurm", cwd=tmp_path)
    assert told.count("submitted light.") == 5 and "(an array of 2)" in told
    again = alignc("submit", "light.yaml", "--store", "on slurm", cwd=tmp_path)
    assert "nothing to submit" in again
    assert set(wait_for("light.yaml", "on slurm", tmp_path).values()) == {"done"}
    assert artifacts(tmp_path / "on slurm") == artifacts(tmp_path / "local")
    assert tables("light.yaml", "on slurm", tmp_path) == tables("light.yaml", "local", tmp_path)
    assert "8 nodes are done" in alignc("submit", "light.yaml", "--store", "on slurm", cwd=tmp_path)
    manifests = (tmp_path / "on slurm").glob("[!.]*/*/manifest.json")
    assert all("estimated" in json.loads(path.read_text())["resources"] for path in manifests)


def test_a_deleted_artifact_is_submitted_alone(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    alignc("run", "light.yaml", "--store", "s", cwd=tmp_path)
    before = artifacts(tmp_path / "s")
    key = next(k for k, kind in before.items() if kind == "evaluate")
    shutil.rmtree(tmp_path / "s" / "evaluate" / key)
    told = alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
    assert told.count("submitted") == 1 and "light.score as Slurm job" in told and "one job" in told
    assert set(wait_for("light.yaml", "s", tmp_path).values()) == {"done"}
    assert artifacts(tmp_path / "s") == before


def test_what_is_submitted_is_what_plan_shows(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    shown = alignc("plan", "light.yaml", "--store", "s", "--format", "sbatch", cwd=tmp_path)
    alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
    scripts = [p.read_text() for p in (tmp_path / "s" / ".logs" / "slurm").glob("*_submission.sh")]
    assert len(scripts) == 5
    for script in scripts:
        token = script.partition("alignc:")[2].split()[0]
        assert script.replace(token, "<token>") in shown
    wait_for("light.yaml", "s", tmp_path)


def test_a_failed_node_blocks_its_readers_and_holds_nothing_up(slurm: Cluster, tmp_path: Path) -> None:
    text = LIGHT.replace("{kind: world, size: 200}", "{kind: jsonl, path: t.jsonl, answer: answer}")
    (tmp_path / "light.yaml").write_text(text)
    (tmp_path / "t.jsonl").write_text("not json\n")
    alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
    phases = wait_for("light.yaml", "s", tmp_path)
    assert phases["prompts"] == "failed"
    assert {p for n, p in phases.items() if n != "prompts"} == {"blocked"}
    assert slurm.command("squeue", "-h") == ""
    assert "t.jsonl:1" in alignc("logs", "light.yaml", "prompts", "--store", "s", cwd=tmp_path)


def test_a_damaged_input_blocks_its_readers_alone(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    alignc("run", "light.yaml", "--store", "s", cwd=tmp_path)
    manifests = (tmp_path / "s").glob("[!.]*/*/manifest.json")
    folder = {json.loads(path.read_text())["id"]: path.parent for path in manifests}
    right, *_ = folder["right"].glob("*.jsonl")
    right.write_text("")
    for id_ in ("wrong[seed=1]", "labels[seed=0]"):
        shutil.rmtree(folder[id_])
    alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
    phases = wait_for("light.yaml", "s", tmp_path)
    assert phases["wrong[seed=1]"] == "done"  # it does not read what is damaged
    assert phases["labels[seed=0]"] == "failed"
    told = alignc("logs", "light.yaml", "labels[seed=0]", "--store", "s", cwd=tmp_path)
    assert f"{right} is missing or has another size" in told and "remove" in told


def test_a_second_experiment_waits_for_the_work_of_the_first(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    (tmp_path / "more.yaml").write_text(
        LIGHT.replace("experiment: light", "experiment: more").replace("[0, 1]", "[1, 2]")
    )
    slurm.command("scontrol", "update", "partitionname=main", "state=down")  # so that jobs stay queued
    try:
        first = alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
        second = alignc("submit", "more.yaml", "--store", "s", cwd=tmp_path)
        assert "more.prompts" not in second and "more.wrong as Slurm job" in second
        assert "in the queue as Slurm job" in alignc("plan", "more.yaml", "--store", "s", cwd=tmp_path)
        assert "8 queued or running" in alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
        assert first.count("submitted") == 5
    finally:
        slurm.command("scontrol", "update", "partitionname=main", "state=up")
    assert set(wait_for("more.yaml", "s", tmp_path).values()) == {"done"}
    assert set(wait_for("light.yaml", "s", tmp_path).values()) == {"done"}


def test_sbatch_refusals_are_told(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    (tmp_path / "moon.yaml").write_text("partition: moon\n")
    told = alignc("submit", "light.yaml", "--store", "s", "--cluster", "moon.yaml", cwd=tmp_path, code=2)
    assert "sbatch refused light.prompts" in told and "invalid partition" in told
    assert "8 waiting" in alignc("status", "light.yaml", "--store", "s", cwd=tmp_path)


@pytest.mark.slow
def test_training_gives_the_same_bits_as_run(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("seed: [0, 1]", "seed: [0]"))
    alignc("run", "tiny.yaml", "--store", "local", cwd=tmp_path, timeout=600)
    alignc("submit", "tiny.yaml", "--store", "slurm", cwd=tmp_path)
    assert set(wait_for("tiny.yaml", "slurm", tmp_path, 600).values()) == {"done"}
    assert artifacts(tmp_path / "slurm") == artifacts(tmp_path / "local")
    assert tables("tiny.yaml", "slurm", tmp_path) == tables("tiny.yaml", "local", tmp_path)
    for path in (tmp_path / "local").glob("*/*/model/model.safetensors"):
        assert path.read_bytes() == (tmp_path / "slurm" / path.relative_to(tmp_path / "local")).read_bytes()


ARMS = """\
experiment: arms
axes: {arm: {good: {source: one}, bad: {source: two}, late: {source: three}}}
llms: {strong: {provider: simulated}, judge: {provider: simulated}}
sources:
  one: {kind: world, size: 20}
  two: {kind: jsonl, path: t.jsonl, answer: answer}
  three: {kind: world, size: 30}
stages:
  prompts: {kind: prepare, source: "${arm.source}"}
  answers: {kind: demonstrate, prompts: prompts, teacher: strong}
  more: {kind: demonstrate, prompts: prompts, teacher: strong, seed: 1}
  score: {kind: evaluate, completions: more, reference: answers, evaluator: judge}
"""


def test_an_arm_waits_for_its_own_inputs_only(slurm: Cluster, tmp_path: Path) -> None:
    """Of three arms one goes through while another fails and a third has not begun."""
    (tmp_path / "arms.yaml").write_text(ARMS)
    (tmp_path / "t.jsonl").write_text("not json\n")
    slurm.command("scontrol", "update", "partitionname=main", "state=down")  # so that jobs stay queued
    try:
        told = alignc("submit", "arms.yaml", "--store", "s", cwd=tmp_path)
        first = next(line.split()[5] for line in told.splitlines() if "arms.prompts" in line)
        slurm.command("scontrol", "hold", f"{first}_2")
    finally:
        slurm.command("scontrol", "update", "partitionname=main", "state=up")
    wanted = {"good": "done", "bad": "blocked", "late": "queued"}
    deadline = time.monotonic() + 120
    while (seen := phases_of("score", "arms.yaml", "s", tmp_path)) != wanted:
        assert time.monotonic() < deadline, seen
        time.sleep(1)
    assert phases_of("prompts", "arms.yaml", "s", tmp_path)["bad"] == "failed"
    slurm.command("scontrol", "release", f"{first}_2")
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    again = alignc("submit", "arms.yaml", "--store", "s", cwd=tmp_path)
    assert again.count("one job") == 4, again  # the arm that failed, and nothing else
    assert set(wait_for("arms.yaml", "s", tmp_path).values()) == {"done"}
    assert slurm.command("squeue", "-h") == ""


def phases_of(stage: str, spec: str, store: str, cwd: Path) -> dict[str, str]:
    """The phase of each arm of a stage."""
    nodes = status(spec, store, cwd)["nodes"]
    return {n["id"].partition("arm=")[2].rstrip("]"): n["phase"] for n in nodes if n["stage"] == stage}
