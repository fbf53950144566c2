"""Jobs that are stopped on a real cluster, in every way that Slurm knows, end with the same weights."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.claims import owner_of
from runtime.files import read_json
from runtime.store import Store
from tests.commands import alignc, start
from tests.conftest import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# One training for each seed, of two legs in one task: a few seconds once torch is there.
SPEC = """\
experiment: long
axes:
  seed: SEEDS
models:
  fresh: {init: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, max_positions: 128}}
sources:
  documents: {kind: world, what: documents, size: 400}
stages:
  corpus: {kind: prepare, source: documents}
  tune: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 8, checkpoint_every: 4, batch_size: 4,
         learning_rate: 1e-3, seed: "${seed}", max_length: 128, max_prompt_length: 64,
         resources: {cpus: 1, minutes: MINUTES}}
"""
PROFILE = """\
partition: PARTITION
warning_s: 1  # Slurm is up to half a minute early: turns of a minute are short as it is
environment: {ALIGNC_RESUME_EVERY_S: "1"}
options: ["--nodelist=NODE"]
"""


def until(look: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.05)
    return found


class Study:
    """A spec submitted in a store of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        seeds: str = "[0]",
        minutes: int = 10,
        partition: str = "main",
        node: str = "n1",
    ) -> None:
        folder.mkdir()
        self.folder, self.store = folder, Store(folder / "s")
        (folder / "long.yaml").write_text(SPEC.replace("SEEDS", seeds).replace("MINUTES", str(minutes)))
        (folder / "site.yaml").write_text(PROFILE.replace("PARTITION", partition).replace("NODE", node))

    def submit(self) -> str:
        words = ("submit", "long.yaml", "--store", "s", "--cluster", "site.yaml")
        return alignc(*words, cwd=self.folder)

    def trainings(self) -> dict[str, dict[str, Any]]:
        """Key -> owner of the trainings that are in the middle of their work."""
        found: dict[str, dict[str, Any]] = {}
        for path in self.store.root.glob(".work/*/progress.json"):
            told, owner = read_json(path), owner_of(path.parent / "claim")
            if owner and 10 <= told["done"] <= 0.7 * told["total"]:
                found[path.parent.name] = owner
        return found

    def log(self, key: str) -> str:
        return self.store.log(key).read_text()

    def tries(self, key: str) -> int:
        return self.log(key).count("\n== ") + 1

    def weights(self) -> dict[str, bytes]:
        found = self.store.root.glob("sft/*/model/model.safetensors")
        return {path.parent.parent.name: path.read_bytes() for path in found}


def held(wanted: dict[Study, int]) -> list[dict[str, int]]:
    """Key -> pid of so many trainings of each study, stopped in the middle of their work.

    Slurm sends a signal that continues them before each one that asks them to end.
    """
    found: list[dict[str, int]] = [{} for _ in wanted]

    def look() -> bool:
        for study, stopped in zip(wanted, found, strict=True):
            for key, owner in study.trainings().items():
                if key not in stopped:
                    os.kill(owner["pid"], signal.SIGSTOP)
                    stopped[key] = owner["pid"]
        return [len(stopped) for stopped in found] == list(wanted.values())

    until(look, "trainings in the middle of their work")
    return found


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def task_of(pid: int) -> str:
    """The Slurm id of the task that a process belongs to: `12_3`, or `12`."""
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    told = dict(word.partition("=")[::2] for word in words)
    array, index = told.get("SLURM_ARRAY_JOB_ID"), told.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else told["SLURM_JOB_ID"]


def test_every_stop_leads_to_the_same_weights(slurm: Cluster, tmp_path: Path) -> None:
    limited = Study(tmp_path / "limited", minutes=1)
    preempted = Study(tmp_path / "preempted", partition="low", node="n3")
    several = Study(tmp_path / "several", seeds="[0, 1, 2]", node="n2")  # three tasks of one array
    limited.submit()
    (out_of_time,) = held({limited: 1})
    preempted.submit()
    several.submit()
    to_preempt, to_stop = held({preempted: 1, several: 3})

    whole = Study(tmp_path / "whole", seeds="[0, 1, 2]")
    undisturbed = start("run", "long.yaml", "--store", "s", cwd=whole.folder)

    ((preempted_key, pid),) = to_preempt.items()
    slurm.command("sbatch", "-p", "high", "-w", "n3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    until(lambda pid=pid: gone(pid), "the preemption")
    requeued, killed, cancelled = to_stop.values()
    slurm.command("scontrol", "requeue", task_of(requeued))
    until(lambda: gone(requeued), "the requeue")
    assert not gone(killed) and not gone(cancelled), "the other tasks of the array are spared"
    both = ",".join(map(task_of, (killed, cancelled)))
    os.kill(killed, signal.SIGKILL)
    slurm.command("scancel", task_of(cancelled))
    slurm.wait_until_empty("-j", both)

    # Nobody puts these two back but a person.
    assert "(an array of 2)" in several.submit()
    slurm.wait_until_empty()

    told, _ = undisturbed.communicate(timeout=300)
    weights = whole.weights()
    assert undisturbed.returncode == 0 and len(weights) == 6, told
    for study, seeds in ((limited, 1), (preempted, 1), (several, 3)):
        found = study.weights()
        assert len(found) == 2 * seeds and found.items() <= weights.items(), study.folder.name
        assert study.store.failures() == frozenset()
    for key in out_of_time:
        assert "requeueing Slurm job" in limited.log(key) and limited.tries(key) >= 2
    assert preempted.tries(preempted_key) == 2
    assert [several.tries(key) for key in to_stop] == [2, 2, 2]
