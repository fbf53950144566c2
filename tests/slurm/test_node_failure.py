"""A node that dies under a training, for real: it goes on elsewhere, to the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import start
from tests.conftest import Cluster, _cluster_script
from tests.slurm.test_stops import PROFILE, Study, held, until
from tests.slurm.test_submit import status

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def own(tmp_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of its own, so that nobody else misses the node, and quick to notice."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    try:
        _cluster_script("up", folder, NODES="2", OWNER=str(os.getpid()), EXTRA="SlurmdTimeout=5")
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield Cluster(folder, 2, accounting=False)
    finally:
        _cluster_script("down", folder)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_node(own: Cluster, node: str, pid: int) -> None:
    """SIGKILL to a node's slurmd and all that it runs, of which `pid` is one."""
    lines = (own.folder / "pids").read_text().splitlines()
    pids = [int(line.split()[1]) for line in lines if line.startswith(f"slurmd.{node} ")]
    while "slurmstepd" not in Path(f"/proc/{pid}/cmdline").read_text():
        pids.append(pid)
        pid = parent(pid)
    for each in (pids[0], pid, *pids[1:]):
        os.kill(each, signal.SIGKILL)


def test_a_training_whose_node_dies_ends_with_the_same_weights(own: Cluster, tmp_path: Path) -> None:
    study, whole = Study(tmp_path / "study"), Study(tmp_path / "whole")
    text = PROFILE.partition("options:")[0].replace("PARTITION", "main")
    (study.folder / "site.yaml").write_text(text)
    study.submit()
    (stopped,) = held({study: 1})
    ((key, pid),) = stopped.items()
    node = own.command("squeue", "-h", "-t", "R", "-o", "%N")
    kill_node(own, node, pid)
    undisturbed = start("run", "long.yaml", "--store", "s", cwd=whole.folder)

    seen: list[str] = []

    def over() -> bool:
        told = {n["key"]: n for n in status("long.yaml", "s", study.folder)["nodes"]}[key]
        seen.append(f"{told['phase']}: {told['detail']}")
        time.sleep(2)  # each look costs a second of a core
        return bool(told["phase"] == "done")

    until(over, "the training", 180)
    told, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, told
    until(lambda: len(study.weights()) == 2, "both checkpoints")
    assert study.weights() == whole.weights()
    assert own.command("sinfo", "-h", "-N", "-n", node, "-p", "main", "-o", "%T") == "down*"
    assert study.tries(key) == 2
    assert {text.partition(":")[0] for text in seen} == {"running", "queued", "done"}, seen
    assert any("after a requeue" in text for text in seen), seen
