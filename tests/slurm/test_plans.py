"""Plans on file and segments of runs on a real cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import alignc, artifacts
from tests.conftest import Cluster
from tests.slurm.test_submit import wait_for
from tests.specs import LIGHT

pytestmark = pytest.mark.slurm

# Two runs, of which one is read half-way and at its end.
RUNS = """\
experiment: runs
axes:
  seed: [0, 1]
models:
  fresh: {init: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, max_positions: 128}}
sources:
  tasks: {kind: world, size: 4}
  documents: {kind: world, what: documents, size: 60}
stages:
  corpus: {kind: prepare, source: documents}
  prompts: {kind: prepare, source: tasks}
  tune: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 4, checkpoint_every: 1, seed: "${seed}",
         learning_rate: 1e-3, max_length: 128, max_prompt_length: 64}
  half: {kind: sample, model: {stage: tune, at: {seed: 0, epoch: 2}}, prompts: prompts, max_new_tokens: 4}
  whole: {kind: sample, model: {stage: tune, at: {seed: 0, epoch: 4}}, prompts: prompts, max_new_tokens: 4}
"""


@pytest.fixture
def held(slurm: Cluster) -> Cluster:
    """The cluster with a partition that starts nothing until it is `up` again."""
    slurm.command("scontrol", "update", "partitionname=main", "state=down")
    return slurm


def release(cluster: Cluster) -> None:
    cluster.command("scontrol", "update", "partitionname=main", "state=up")


def test_segments_are_chained_and_give_the_same_bits(held: Cluster, tmp_path: Path) -> None:
    (tmp_path / "runs.yaml").write_text(RUNS)
    (tmp_path / "cut.yaml").write_text(RUNS.replace("epochs: 4,", "epochs: 4, segments: 2,"))
    try:
        told = alignc("submit", "cut.yaml", "--store", "slurm", cwd=tmp_path)
        lines = [line.partition(" as ")[0].removeprefix("submitted ") for line in told.splitlines()]
        assert sorted(lines) == [
            f"runs.{job}" for job in ("corpus", "half", "prompts", "tune.1", "tune.2", "whole")
        ]
        again = alignc("submit", "cut.yaml", "--store", "slurm", cwd=tmp_path)
        assert "nothing to submit" in again and "12 queued or running" in again
        queued = held.command("squeue", "-h", "-r", "-o", "%j").split()
        assert sorted(set(queued)) == sorted(lines) and queued.count("runs.tune.2") == 2
        (tmp_path / "five.yaml").write_text(RUNS.replace("epochs: 4,", "epochs: 5,"))
        more = alignc("submit", "five.yaml", "--store", "slurm", cwd=tmp_path)
        assert "submitted runs.tune as Slurm job" in more, "the fifth epoch waits for the queued fourth"
    finally:
        release(held)
    for spec in ("cut.yaml", "five.yaml"):
        assert set(wait_for(spec, "slurm", tmp_path).values()) == {"done"}
    alignc("run", "runs.yaml", "--store", "local", cwd=tmp_path)
    assert artifacts(tmp_path / "local").items() <= artifacts(tmp_path / "slurm").items()
    weights = list((tmp_path / "local").glob("*/*/model/model.safetensors"))
    assert len(weights) == 8
    for path in weights:
        assert path.read_bytes() == (tmp_path / "slurm" / path.relative_to(tmp_path / "local")).read_bytes()
    manifests = (tmp_path / "slurm" / "sft").glob("*/manifest.json")
    steps = [json.loads(path.read_text())["summary"]["steps"] for path in manifests]
    assert len(steps) == 10 and len(set(steps)) == 1, "no epoch is trained twice"


def test_a_plan_on_file_is_submitted_or_refused(held: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    words = ("--store", "s", "--select", "+score[seed=0]", "--out", "plan.json")
    alignc("plan", "light.yaml", *words, cwd=tmp_path)
    try:
        told = alignc("submit", "plan.json", cwd=tmp_path)
        assert told.count("submitted light.") == 4 and "array" not in told
        refused = alignc("submit", "plan.json", cwd=tmp_path, code=2)
        assert "store: prompts and 3 more were to run, and now queued or running" in refused
        alignc("plan", "light.yaml", "--store", "s", "--out", "rest.json", cwd=tmp_path)
        assert "4 queued or running (>)" in alignc("plan", "light.yaml", "--store", "s", cwd=tmp_path)
        assert "submitted light.labels" in alignc("submit", "rest.json", cwd=tmp_path)
        (tmp_path / "light.yaml").write_text(LIGHT.replace("error_rate: 0.05", "error_rate: 0.06"))
        moved = alignc("submit", "rest.json", cwd=tmp_path, code=2)
        assert "spec: llms.judge.error_rate 0.05 -> 0.06, light.yaml:7" in moved
    finally:
        release(held)
    (tmp_path / "light.yaml").write_text(LIGHT)
    assert set(wait_for("light.yaml", "s", tmp_path).values()) == {"done"}
