"""status, cancel, retry and logs -f on a real cluster: also when it restarts, stops, and forgets."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands import alignc, artifacts, start
from tests.conftest import Cluster
from tests.slurm.test_submit import status, wait_for
from tests.specs import LIGHT

pytestmark = pytest.mark.slurm


@pytest.fixture
def spec(slurm: Cluster, tmp_path: Path) -> Path:
    (tmp_path / "light.yaml").write_text(LIGHT)
    return tmp_path


def nodes(cwd: Path) -> dict[str, dict[str, object]]:
    return {n["id"]: n for n in status("light.yaml", "s", cwd)["nodes"]}


def start_slurmctld(slurm: Cluster) -> None:
    """Start it again as cluster.sh did, and tell that of the new process."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    log = slurm.folder / "cluster.log"
    with log.open("a") as out:
        subprocess.run(["slurmctld"], env={**os.environ, "PATH": path}, stdout=out, stderr=out, check=True)
    deadline = time.monotonic() + 30
    while "UP" not in subprocess.run(["scontrol", "ping"], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    pid = (slurm.folder / "slurmctld.pid").read_text().strip()
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    kept = [li for li in (slurm.folder / "pids").read_text().splitlines() if not li.startswith("slurmctld ")]
    (slurm.folder / "pids").write_text("\n".join([*kept, f"slurmctld {pid} {started}", ""]))


def impatient(slurm: Cluster, folder: Path) -> str:
    """A configuration with which Slurm's commands give slurmctld up after a second, not ten."""
    path = folder / "slurm.conf"
    path.write_text(f"{slurm.conf.read_text()}\nMessageTimeout=1\n")
    return str(path)


def test_cancel_stops_a_node_and_what_depends_on_it_and_retry_makes_them(slurm: Cluster, spec: Path) -> None:
    slurm.command("scontrol", "update", "partitionname=main", "state=down")
    try:
        alignc("submit", "light.yaml", "--store", "s", cwd=spec)
        before = nodes(spec)
        assert "its partition" in str(before["prompts"]["reason"])
        words = ("cancel", "light.yaml", "wrong[seed=0]", "--store", "s")
        asked = alignc(*words, cwd=spec, code=1)  # nobody answers the question
        assert asked.count("Slurm job") == 3 and "cancelled" not in asked
        told = alignc(*words, "--yes", cwd=spec)
        assert "cancelled 3 of 3" in told
        now = nodes(spec)
        gone = {n for n, s in now.items() if s["phase"] not in ("queued",)}
        assert gone == {"wrong[seed=0]", "score[seed=0]", "labels[seed=0]"}
        assert "cancelled by a person" in str(now["wrong[seed=0]"]["detail"])
        assert f"{before['wrong[seed=1]']['slurm_id']}" in slurm.command("squeue", "-h", "-r", "-o", "%i")
        assert "nothing to cancel" in alignc(*words, "--yes", cwd=spec)
    finally:
        slurm.command("scontrol", "update", "partitionname=main", "state=up")
    phases = wait_for("light.yaml", "s", spec)
    assert phases["score[seed=1]"] == "done" and phases["score[seed=0]"] == "blocked"
    told = alignc("retry", "light.yaml", "--failed", "--store", "s", cwd=spec)
    assert told.count("submitted light.") == 3
    assert set(wait_for("light.yaml", "s", spec).values()) == {"done"}
    assert "nothing to submit" in alignc("retry", "light.yaml", "prompts", "--store", "s", cwd=spec)


def test_retry_after_a_failure_was_mended(slurm: Cluster, spec: Path) -> None:
    text = LIGHT.replace("{kind: world, size: 200}", "{kind: jsonl, path: t.jsonl, answer: answer}")
    (spec / "light.yaml").write_text(text)
    (spec / "t.jsonl").write_text("not json\n")
    alignc("submit", "light.yaml", "--store", "s", cwd=spec)
    following = start("logs", "-f", "light.yaml", "prompts", "--store", "s", cwd=spec)
    phases = wait_for("light.yaml", "s", spec)
    assert phases["prompts"] == "failed" and set(phases.values()) == {"failed", "blocked"}
    told, _ = following.communicate(timeout=60)
    assert "prompts: failed" in told.splitlines()[-1] and "t.jsonl:1" in told
    told = alignc("retry", "light.yaml", "--failed", "--store", "s", cwd=spec)
    assert told.count("submitted light.") == 5
    wait_for("light.yaml", "s", spec)


def test_cancel_of_a_running_job(slurm: Cluster, spec: Path) -> None:
    slow = "setup: ['sleep 30']\n"
    (spec / "slow.yaml").write_text(slow)
    alignc("submit", "light.yaml", "--store", "s", "--cluster", "slow.yaml", cwd=spec)
    deadline = time.monotonic() + 30
    while nodes(spec)["prompts"]["phase"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    told = alignc("cancel", "light.yaml", "prompts", "--yes", "--store", "s", cwd=spec)
    assert "cancelled 8 of 8" in told
    phases = wait_for("light.yaml", "s", spec)
    assert phases["prompts"] == "failed" and set(phases.values()) == {"failed", "blocked"}
    assert artifacts(spec / "s") == {}
    assert slurm.command("squeue", "-h") == ""


def status_of_forgotten_jobs(slurm: Cluster, folder: Path, awaited: str) -> str:
    """Status of light.yaml, its jobs killed outright, and unseen until slurmctld had purged them.

    awaited: what it says at last; accounting learns of an end a moment later.
    """
    (folder / "killed.yaml").write_text("setup: ['kill -9 $$']\n")
    alignc("submit", "light.yaml", "--store", "s", "--cluster", "killed.yaml", cwd=folder)
    deadline = time.monotonic() + 60
    while slurm.command("squeue", "-h"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    fake = folder / "bin" / "squeue"  # MinJobAge cannot be waited for: an empty queue stands in
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    records = list((folder / "s" / ".submissions").glob("*.json"))
    assert len(records) == 5
    for path in records:
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "time": told["time"] - 90}))
    words = ("status", "light.yaml", "--store", "s", "--nodes")
    while awaited not in (told := alignc(*words, cwd=folder, PATH=f"{fake.parent}:{os.environ['PATH']}")):
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
    return told


def test_jobs_that_slurm_has_forgotten_are_told_of(slurm: Cluster, spec: Path) -> None:
    phase = "failed   prompts" if slurm.accounting else "unknown  prompts"
    told = status_of_forgotten_jobs(slurm, spec, phase)
    assert ("it ended with an error (FAILED)" if slurm.accounting else "left the queue") in told


def test_a_slurmctld_that_stops_and_comes_back(slurm: Cluster, spec: Path) -> None:
    slurm.command("scontrol", "update", "partitionname=main", "state=down")
    try:
        alignc("submit", "light.yaml", "--store", "s", cwd=spec)
        assert nodes(spec)["prompts"]["phase"] == "queued"
        hasty = impatient(slurm, spec)
        slurm.command("scontrol", "shutdown", "slurmctld")
        try:
            told = alignc("status", "light.yaml", "--store", "s", "--nodes", cwd=spec, SLURM_CONF=hasty)
            assert told.count("queued") == 8 and "Slurm does not answer since" in told
            words = ("cancel", "light.yaml", "prompts", "--yes", "--store", "s")
            refused = alignc(*words, cwd=spec, code=2, SLURM_CONF=hasty)
            assert "squeue" in refused and "cannot be cancelled" in refused
        finally:
            start_slurmctld(slurm)
        assert "does not answer" not in alignc("status", "light.yaml", "--store", "s", "--nodes", cwd=spec)
    finally:
        slurm.command("scontrol", "update", "partitionname=main", "state=up")
    assert set(wait_for("light.yaml", "s", spec).values()) == {"done"}
    # A node is done when its artifact is sealed: its Slurm job may still be ending.
    deadline = time.monotonic() + 60
    while list((spec / "s" / ".submissions").glob("*.json")):
        assert time.monotonic() < deadline
        nodes(spec)
        time.sleep(0.5)
