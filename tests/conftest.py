"""Fixtures of all tests: real data, a store, a real Slurm cluster; and what may not be skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from runtime.store import Store

# Tests start hundreds of processes: else each compiles our modules anew, which is a third of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The same examples every time, and no clock: machines that run tests are shared and slow.
settings.register_profile("alignc", derandomize=True, deadline=None)
settings.load_profile("alignc")

CLUSTER = Path(__file__).parent / "slurm" / "cluster.sh"
COSTLY = ("slow", "browser", "deepspeed", "slurm")  # the last ones take longest
REQUIRED = frozenset(filter(None, os.environ.get("ALIGNC_REQUIRE", "").split(",")))


# ---------------------------------------------------------------- what runs, and in which order


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of tests of the compiler first, so that most mistakes show within seconds; then the costly ones.

    Short ones are the last, so that workers side by side (`make test`) end together.
    """
    costs: dict[Path, int] = {}
    for item in items:
        cost = max((n for n, mark in enumerate(COSTLY, 1) if item.get_closest_marker(mark)), default=0)
        costs[item.path] = max(cost, costs.get(item.path, 0))

    def turn(item: pytest.Item) -> tuple[int, int]:
        cost = costs[item.path]
        return (1, -cost) if cost else (0 if item.path.parent.name == "compiler" else 2, 0)

    items.sort(key=turn)


def _required_marks(item: pytest.Item) -> set[str]:
    marks = {mark.name for mark in item.iter_markers()}
    # Accounting needs a database beside Slurm: it has to be asked for by name.
    return marks & REQUIRED if "accounting" not in marks or "accounting" in REQUIRED else set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where ALIGNC_REQUIRE names a mark, a skipped test of that mark has failed."""
    report: pytest.TestReport = yield
    marks = _required_marks(item)
    if marks and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        asked = ", ".join(sorted(marks))
        report.longrepr = f"skipped, but ALIGNC_REQUIRE asks for {asked}: {report.longrepr}"
    return report


_passed = set[str]()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Counts what passed; where several workers run tests, the one that started them hears of all."""
    if report.when == "call" and report.passed:
        _passed.update(REQUIRED & set(report.keywords))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A required mark of which no test passed (renamed, deselected) fails the run too."""
    missing = REQUIRED - _passed
    if missing and exitstatus == 0 and not hasattr(session.config, "workerinput"):
        print(f"\nALIGNC_REQUIRE: no test of {', '.join(sorted(missing))} has passed")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# ---------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data (AlpacaEval outputs, annotations) that ALIGNC_DATA names."""
    folder = os.environ.get("ALIGNC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set ALIGNC_DATA to the folder of real data")
    return Path(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running Slurm cluster of virtual nodes n1, n2 ... on this machine.

    While a test uses it, SLURM_CONF leads every Slurm command to it.
    """

    folder: Path
    nodes: int
    accounting: bool

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    def command(self, *words: str | Path) -> str:
        """Run a Slurm command to its end; returns what it printed."""
        done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def wait_until_empty(self, *words: str, seconds: float = 240) -> None:
        """Until none of the jobs that these words of squeue choose is queued or running."""
        deadline = time.monotonic() + seconds
        while left := self.command("squeue", "-h", *words):
            assert time.monotonic() < deadline, left
            time.sleep(0.3)  # a look takes some hundredths of a second of a core, which the jobs need


def _cluster_script(word: str, folder: Path, **knobs: str) -> None:
    environment = {**os.environ, "CLUSTER": str(folder), **knobs}
    log = folder / "cluster.log"  # a file, not a pipe: the daemons keep it open
    with log.open("a") as out:
        words = ["bash", str(CLUSTER), word]
        done = subprocess.run(words, env=environment, stdout=out, stderr=out, timeout=120)
    assert done.returncode == 0, log.read_text()


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests. ALIGNC_SLURM_ACCOUNTING=1 gives it slurmdbd and MariaDB."""
    accounting = os.environ.get("ALIGNC_SLURM_ACCOUNTING") == "1"
    programs = ["slurmctld", "slurmd", "sbatch", "munged"] + ["slurmdbd", "mariadbd"] * accounting
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("only root can start a Slurm cluster")
    folder = tmp_path_factory.mktemp("slurm")
    knobs = {"NODES": "4", "ACCOUNTING": str(int(accounting)), "OWNER": str(os.getpid())}
    try:
        _cluster_script("up", folder, **knobs)
        yield Cluster(folder, 4, accounting)
    finally:
        _cluster_script("down", folder)


@pytest.fixture
def slurm(slurm_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, reached by every Slurm command and child process of this test."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    return slurm_cluster
