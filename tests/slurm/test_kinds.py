"""The kinds of ends, told from what a real Slurm says of jobs that were killed outright."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest

from compiler.slurm.failures import Kind, kind_of
from tests.conftest import Cluster

pytestmark = pytest.mark.slurm

HOG = [sys.executable, "-c", "x = bytearray(600 << 20); import time; time.sleep(60)"]


def submit(slurm: Cluster, out: Path, script: str, *options: str) -> str:
    return slurm.command("sbatch", "--parsable", "--requeue", "-o", out, *options, "--wrap", script)


def state(slurm: Cluster, job: str) -> str:
    return slurm.command("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def wait(slurm: Cluster, job: str, *states: str) -> str:
    end = time.monotonic() + 60
    while (seen := state(slurm, job)) not in states:
        assert time.monotonic() < end, f"job {job} is {seen}"
        time.sleep(0.1)
    return seen


def test_what_slurm_writes_tells_the_kind(slurm: Cluster, tmp_path: Path) -> None:
    hog = submit(slurm, tmp_path / "hog", shlex.join(HOG), "--mem=200M")
    away = submit(slurm, tmp_path / "away", "exec sleep 60")
    killed = submit(slurm, tmp_path / "killed", "kill -9 $$")
    moved = submit(slurm, tmp_path / "moved", "exec sleep 60", "-p", "low", "-w", "n2")
    wait(slurm, away, "RUNNING")
    slurm.command("scancel", away)
    wait(slurm, moved, "RUNNING")
    slurm.command("sbatch", "-p", "high", "-w", "n2", "--exclusive", "-o", "/dev/null", "--wrap", "true")
    wait(slurm, moved, "PENDING")
    slurm.command("scancel", moved)
    ends = {
        "hog": (wait(slurm, hog, "FAILED", "CANCELLED", "OUT_OF_MEMORY"), Kind.MEMORY),
        "away": (wait(slurm, away, "CANCELLED"), Kind.CANCELLED),
        "killed": (wait(slurm, killed, "FAILED"), Kind.KILLED),
        "moved": ("", Kind.PREEMPTED),
    }
    for name, (word, kind) in ends.items():
        output = (tmp_path / name).read_text()
        assert kind_of(None, state=word, output=output) is kind, (name, word, output)
    # Where Slurm's word has been lost too, its notice is enough.
    assert kind_of(None, output=(tmp_path / "away").read_text()) is Kind.CANCELLED
