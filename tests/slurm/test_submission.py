"""Submission that survives: killed at any step, by two at once, and where not all fits at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import alignc, artifacts, start
from tests.conftest import Cluster, _cluster_script
from tests.slurm.killed import killed
from tests.slurm.test_submit import wait_for
from tests.specs import LIGHT

pytestmark = pytest.mark.slurm


@contextmanager
def closed(slurm: Cluster) -> Iterator[None]:
    """Jobs are taken and do not start; they are gone afterwards."""
    slurm.command("scontrol", "update", "partitionname=main", "state=down")
    try:
        yield
    finally:
        cancel_all(slurm)
        slurm.command("scontrol", "update", "partitionname=main", "state=up")


def cancel_all(slurm: Cluster) -> None:
    slurm.command("scancel", "--user", "root")
    while slurm.command("squeue", "-h"):
        time.sleep(0.1)


def queued(slurm: Cluster, store: Path) -> Counter[str]:
    """How many tasks in the queue make each key. A job that the store does not know of is an error."""
    told = slurm.command("squeue", "-h", "--array", "--Format=ArrayTaskID:;,Comment:;")
    count: Counter[str] = Counter()
    for line in told.splitlines():
        index, comment = line.split(";")[:2]
        record = store / ".submissions" / f"{comment.removeprefix('alignc:')}.json"
        assert record.exists(), f"an orphan: {line}"
        count.update(set(json.loads(record.read_text())["keys"][int(index) if index.isdigit() else 0]))
    return count


def keys_of(spec: str, cwd: Path, *words: str) -> set[str]:
    told = json.loads(alignc("status", spec, *words, "--format", "json", cwd=cwd, errors=False))
    return {node["key"] for node in told["nodes"]}


def test_a_submission_killed_at_any_step_is_made_whole_by_the_next(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    (tmp_path / "mail.yaml").write_text("mail: {to: me@example.org}\n")  # one more job, behind all others
    words = ("submit", "light.yaml", "--store", "s", "--cluster", "mail.yaml", "--select", "prompts")
    wanted = keys_of("light.yaml", tmp_path, "--select", "prompts") | {"end.light"}
    steps = 0
    with closed(slurm):
        while True:
            steps += 1
            code = killed(steps, *words, cwd=tmp_path)
            if code == 0:
                break
            assert code == -9
            assert killed(0, *words, cwd=tmp_path) == 0
            assert queued(slurm, tmp_path / "s") == dict.fromkeys(wanted, 1), f"killed at step {steps}"
            assert not any((tmp_path / "s" / ".submissions" / "backlog").rglob("*.json"))
            cancel_all(slurm)
            shutil.rmtree(tmp_path / "s")
    assert steps > 20  # two calls: each on file, begun, asked for, answered


def test_a_job_that_slurm_takes_too_late_does_nothing(slurm: Cluster, tmp_path: Path) -> None:
    """sbatch outlives its killed caller, and is heard only after the next submission looked."""
    (tmp_path / "light.yaml").write_text(LIGHT)
    words = ("submit", "light.yaml", "--store", "s", "--select", "prompts")
    with closed(slurm):
        step = next(n for n in range(1, 99) if killed(n, *words, cwd=tmp_path) and _begun(tmp_path))
        (call,) = _begun(tmp_path)
        alignc(*words, cwd=tmp_path)
        script = call["text"].replace("<token>", call["begun"])
        late = subprocess.run(["sbatch", "--parsable"], input=script, text=True, capture_output=True)
        assert late.returncode == 0, (step, late.stderr)
        slurm.command("scontrol", "update", "partitionname=main", "state=up")
        while slurm.command("squeue", "-h"):
            time.sleep(0.1)
        assert "COMPLETED" in slurm.command("scontrol", "show", "job", late.stdout.strip())
    (log,) = (tmp_path / "s" / ".logs").glob("*.log")
    assert log.read_text().count("== ") == 1  # one try
    assert set(artifacts(tmp_path / "s").values()) == {"prepare"}


def _begun(cwd: Path) -> list[dict[str, str]]:
    found = (cwd / "s" / ".submissions" / "backlog").rglob("*.json")
    return [call for call in (json.loads(path.read_text()) for path in found) if call["begun"]]


def test_a_job_of_a_killed_submission_can_be_cancelled(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm has taken it, and the store does not know that yet."""
    (tmp_path / "light.yaml").write_text(LIGHT)
    words = ("light.yaml", "--store", "s")
    with closed(slurm):
        for step in range(1, 99):
            killed(step, "submit", *words, "--select", "prompts", cwd=tmp_path)
            if _begun(tmp_path) and slurm.command("squeue", "-h"):
                break
        told = alignc("cancel", "light.yaml", "prompts", "--yes", "--store", "s", cwd=tmp_path)
        assert "cancelled 1 of 1" in told
        deadline = time.monotonic() + 30
        while slurm.command("squeue", "-h"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        alignc("submit", *words, "--select", "prompts", cwd=tmp_path)
        wanted = keys_of("light.yaml", tmp_path, "--select", "prompts")
        assert queued(slurm, tmp_path / "s") == dict.fromkeys(wanted, 1)


def test_two_submissions_at_once_submit_each_node_once(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    with closed(slurm):
        for _ in range(3):
            both = [start("submit", "light.yaml", "--store", "s", cwd=tmp_path) for _ in range(2)]
            told = [process.communicate(timeout=60)[0] for process in both]
            assert [process.returncode for process in both] == [0, 0], told
            assert sum("nothing to submit" in text for text in told) == 1
            assert queued(slurm, tmp_path / "s") == dict.fromkeys(keys_of("light.yaml", tmp_path), 1)
            cancel_all(slurm)
            shutil.rmtree(tmp_path / "s")


@pytest.mark.slow
def test_submissions_killed_at_random(slurm: Cluster, tmp_path: Path) -> None:
    """Experiments that share work, each killed once somewhere and then submitted again."""
    kills = int(os.environ.get("ALIGNC_KILLS", "10"))
    (tmp_path / "light.yaml").write_text(LIGHT)
    chance = random.Random(4)
    hit = 0
    with closed(slurm):
        for seed in range(kills):
            words = ("submit", "light.yaml", "--store", "s", "--set", f"axes.seed=[{seed}]")
            process = start(*words, cwd=tmp_path)
            time.sleep(chance.uniform(0.15, 0.6))
            process.kill()
            process.communicate()
            hit += process.returncode == -9
            alignc(*words, cwd=tmp_path)
        count = queued(slurm, tmp_path / "s")
        seeds = f"axes.seed={list(range(kills))}"
        assert count == dict.fromkeys(keys_of("light.yaml", tmp_path, "--set", seeds), 1)
    print(f"{hit} of {kills} were killed before they ended")
    assert hit >= kills // 4


# ---------------------------------------------------------------- waves


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that remembers six jobs at a time, and takes arrays of two."""
    limits = "MaxJobCount=7\nMaxArraySize=2\nMinJobAge=2\n"
    yield from own_cluster(tmp_path_factory, monkeypatch, ACCOUNTING="0", EXTRA=limits)


def own_cluster(
    factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, **knobs: str
) -> Iterator[Cluster]:
    folder = factory.mktemp("own")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    try:
        _cluster_script("up", folder, NODES="2", OWNER=str(os.getpid()), **knobs)
        yield Cluster(folder, 2, knobs["ACCOUNTING"] == "1")
    finally:
        _cluster_script("down", folder)


@pytest.mark.slow
def test_what_slurm_has_no_room_for_follows_by_itself(small: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    told = alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
    assert "MaxJobCount of the cluster is 6" in told and "tasks follow by themselves" in told
    assert "nothing to submit" in alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
    words = ("cancel", "light.yaml", "labels[seed=1]", "--yes", "--store", "s")
    told = alignc(*words, cwd=tmp_path, errors=False)
    assert told == "waits for room in Slurm: labels[seed=1]\ncancelled 1 of 1\n"
    while "7 done, 1 waiting" not in (told := alignc("status", "light.yaml", "--store", "s", cwd=tmp_path)):
        assert " failed" not in told and " lost" not in told, told
        time.sleep(1)
    assert "one job" in alignc("submit", "light.yaml", "--store", "s", cwd=tmp_path)
    assert set(wait_for("light.yaml", "s", tmp_path, 400).values()) == {"done"}
