"""The test cluster itself: a real scheduler with several nodes, GPUs, requeue and arrays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import CLUSTER, Cluster

pytestmark = pytest.mark.slurm


def wait(cluster: Cluster, job: str, state: str, seconds: float = 30) -> None:
    """Until all tasks of a job are in a state (`sbatch -W` looks every few seconds only)."""
    end = time.monotonic() + seconds
    words = ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"]
    while (seen := set(cluster.command(*words).split())) != {state}:
        assert time.monotonic() < end, f"job {job} is {seen}, not {state}"
        time.sleep(0.1)


def test_a_job_runs_and_its_exit_code_is_told(slurm: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = "echo $SLURMD_NODENAME $SLURM_CONF; exit 4"
    job = slurm.command("sbatch", "--parsable", "-o", out, "--wrap", script)
    wait(slurm, job, "FAILED")
    assert out.read_text().split() == ["n1", str(slurm.conf)]
    assert "ExitCode=4:0" in slurm.command("scontrol", "show", "job", job)


def test_arrays_spread_over_nodes(slurm: Cluster, tmp_path: Path) -> None:
    words = ["sbatch", "--parsable", "--array=0-7", "--exclusive", "-o", tmp_path / "%a"]
    wait(slurm, slurm.command(*words, "--wrap", "echo $SLURMD_NODENAME; sleep 0.3"), "COMPLETED")
    assert {(tmp_path / str(n)).read_text().strip() for n in range(8)} == {"n1", "n2", "n3", "n4"}


def test_steps_on_two_nodes_with_gpus(slurm: Cluster, tmp_path: Path) -> None:
    script = "srun bash -c 'echo $SLURMD_NODENAME $SLURM_PROCID $CUDA_VISIBLE_DEVICES'"
    words = ["sbatch", "--parsable", "-N2", "--ntasks-per-node=1", "--gpus-per-node=2"]
    wait(slurm, slurm.command(*words, "-o", tmp_path / "out", "--wrap", script), "COMPLETED")
    lines = sorted((tmp_path / "out").read_text().splitlines())
    assert [line.split()[1:] for line in lines] == [["0", "0,1"], ["1", "0,1"]]
    assert len({line.split()[0] for line in lines}) == 2


def test_a_requeued_job_starts_again(slurm: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = 'echo try ${SLURM_RESTART_COUNT:-0}; [ -n "$SLURM_RESTART_COUNT" ] || sleep 60'
    words = ["sbatch", "--parsable", "--requeue", "--open-mode=append", "-o", out]
    job = slurm.command(*words, "--wrap", script)
    wait(slurm, job, "RUNNING")
    while not out.exists() or not out.read_text():
        time.sleep(0.05)
    slurm.command("scontrol", "requeue", job)
    wait(slurm, job, "COMPLETED", 60)
    assert "try 0" in out.read_text() and "try 1" in out.read_text()


def test_sacct_works_where_accounting_was_asked_for(slurm: Cluster) -> None:
    done = subprocess.run(["sacct", "-n"], capture_output=True, text=True)
    assert (done.returncode == 0) is slurm.accounting, done.stderr


def test_a_cluster_whose_owner_is_killed_comes_down(slurm: Cluster, tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    environment = {**os.environ, "CLUSTER": str(tmp_path), "NODES": "1", "OWNER": str(owner.pid)}
    try:
        with (tmp_path / "cluster.log").open("w") as log:
            subprocess.run(["bash", str(CLUSTER), "up"], env=environment, stdout=log, stderr=log, check=True)
        daemons = [int(line.split()[1]) for line in (tmp_path / "pids").read_text().splitlines()]
        assert len(daemons) == 3
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    end = time.monotonic() + 20
    while (tmp_path / "pids").exists() or str(tmp_path) in Path("/etc/hosts").read_text():
        assert time.monotonic() < end, (tmp_path / "watch.log").read_text()
        time.sleep(0.1)
