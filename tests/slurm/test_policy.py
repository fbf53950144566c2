"""The policy of a profile on a real cluster: failed jobs are tried again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runtime.files import read_json
from tests.commands import alignc
from tests.conftest import Cluster
from tests.frail import installed
from tests.slurm.test_submit import status, wait_for

pytestmark = pytest.mark.slurm

SPEC = """\
experiment: frail
axes: {size: [1, 8]}
stages:
  hungry: {kind: frail, needs_mb: 300, resources: {memory_gb: 0.2, minutes: 5}}
  calm: {kind: frail, source: hungry, resources: {memory_gb: 0.2, minutes: 5}}
  wide: {kind: frail, fits: 2, batch_size: "${size}", resources: {memory_gb: 0.2, minutes: 5}}
  after: {kind: frail, source: wide, resources: {memory_gb: 0.2, minutes: 5}}
  broken: {kind: frail, breaks: true, resources: {memory_gb: 0.2, minutes: 5}}
  beside: {kind: frail, source: broken, resources: {memory_gb: 0.2, minutes: 5}}
  hog: {kind: frail, takes_mb: 500, resources: {memory_gb: 0.4, minutes: 5}}
"""
PROFILE = """\
retry:
  out_of_memory: {times: 1, memory: 2, exclude_node: true}
  out_of_gpu_memory: {times: 3, halve_micro_batch: true}
  exception: {times: 5}
"""


def told(cwd: Path) -> dict[str, str]:
    return {n["id"]: f"{n['phase']}: {n['detail']}" for n in status("frail.yaml", "s", cwd)["nodes"]}


def submit(cwd: Path, word: str = "submit", *more: str) -> str:
    return alignc(word, "frail.yaml", *more, "--store", "s", "--cluster", "site.yaml", cwd=cwd)


def test_failed_jobs_are_tried_again_as_the_profile_says(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = (installed(tmp_path / "kinds"), Path(__file__).parents[2], os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    (tmp_path / "frail.yaml").write_text(SPEC)
    (tmp_path / "site.yaml").write_text(PROFILE)
    store = tmp_path / "s"
    assert submit(tmp_path).count("submitted frail.") == 7
    seen: dict[str, set[str]] = {}
    deadline = time.monotonic() + 120
    while not (now := told(tmp_path))["after[size=8]"].startswith("done"):
        assert time.monotonic() < deadline, now
        for node, text in now.items():
            seen.setdefault(node, set()).add(text)
        time.sleep(1)
    made = {m["id"]: m for m in map(read_json, store.glob("frail/*/manifest.json"))}
    # More memory for the same Slurm job, while what reads it waited: also by aftercorr, task by task.
    assert any("again with 0.4 GB" in text for text in seen["hungry"]), seen["hungry"]
    assert not any("blocked" in text for node in made for text in seen[node]), seen
    assert made["hungry"]["again"]["tries"] == {"out_of_memory": 1}
    # Smaller micro-batches, on record.
    wide = made["wide[size=8]"]
    assert wide["config"]["micro_batch"] == wide["again"]["micro_batch"] == 2
    assert wide["again"]["tries"] == {"out_of_gpu_memory": 2} and "again" not in made["wide[size=1]"]
    # The same traceback three times is the end.
    phases = wait_for("frail.yaml", "s", tmp_path)
    assert (phases["broken"], phases["beside"], phases["hog"]) == ("failed", "blocked", "failed")
    assert "the same error 3 times: mend its cause" in told(tmp_path)["broken"]
    assert "ran out of memory" in told(tmp_path)["hog"]

    plan = alignc("plan", "frail.yaml", "--nodes", "--store", "s", "--cluster", "site.yaml", cwd=tmp_path)
    assert "again with 0.8 GB" in plan and "the same error 3 times: KeyError" in plan
    again = submit(tmp_path)
    assert again.count("submitted frail.") == 1 and "not submitted: beside: needs broken" in again
    assert "hog: again with 0.8 GB and another node than" in again
    assert wait_for("frail.yaml", "s", tmp_path)["hog"] == "done"
    assert submit(tmp_path, "retry", "broken").count("submitted frail.") == 2
    slurm.command("scancel", "--me")
