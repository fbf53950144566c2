"""A cluster with accounting, which enforces limits, and remembers what the queue has forgotten."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import alignc
from tests.conftest import Cluster, _cluster_script
from tests.slurm.test_submission import cancel_all
from tests.slurm.test_submit import wait_for
from tests.slurm.test_watching import status_of_forgotten_jobs
from tests.specs import LIGHT

pytestmark = [pytest.mark.slurm, pytest.mark.accounting]

# The least room takes the most time.
LIMITS = (2, 3, 5) if os.environ.get("ALIGNC_SLURM_ACCOUNTING") == "1" else (3,)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that enforces the limits of an account lab."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [
        name for name in ("slurmctld", "slurmdbd", "mariadbd") if shutil.which(name, path=path) is None
    ]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, Slurm, slurmdbd and MariaDB: no {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("accounting")
    enforce = "AccountingStorageEnforce=associations,limits,qos\n"
    try:
        _cluster_script("up", folder, NODES="2", ACCOUNTING="1", EXTRA=enforce, OWNER=str(os.getpid()))
        cluster = Cluster(folder, 2, accounting=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(cluster.conf))
            cluster.command("sacctmgr", "-i", "add", "account", "lab")
            cluster.command("sacctmgr", "-i", "add", "user", "root", "account=lab")
        yield cluster
    finally:
        _cluster_script("down", folder)


@pytest.fixture
def counted(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """That cluster, empty and without limits."""
    monkeypatch.setenv("SLURM_CONF", str(lab.conf))
    cancel_all(lab)
    lab.command("sacctmgr", "-i", "modify", "account", "lab", "set", "maxsubmit=-1")
    return lab


@pytest.mark.parametrize("limit", LIMITS)
def test_waves_stay_below_the_limit_of_the_account(counted: Cluster, tmp_path: Path, limit: int) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    (tmp_path / "lab.yaml").write_text("account: lab\n")
    counted.command("sacctmgr", "-i", "modify", "account", "lab", "set", f"maxsubmit={limit}")
    words = ("submit", "light.yaml", "--store", "s", "--cluster", "lab.yaml")
    told = alignc(*words, cwd=tmp_path)
    assert f"MaxSubmitJobs of account lab is {limit}, and 0 are there" in told
    assert "nothing to submit" in alignc(*words, cwd=tmp_path)
    assert set(wait_for("light.yaml", "s", tmp_path, 300).values()) == {"done"}
    log = (counted.folder / "slurmctld.log").read_text()
    assert "MaxSubmitJob" not in log, "a limit was found by failing"


@pytest.mark.parametrize("limit", LIMITS[:2])
def test_a_second_experiment_waits_for_work_that_waits_for_room(
    counted: Cluster, tmp_path: Path, limit: int
) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    more = LIGHT.replace("experiment: light", "experiment: more").replace("[0, 1]", "[1, 2]")
    (tmp_path / "more.yaml").write_text(more)
    (tmp_path / "lab.yaml").write_text("account: lab\n")
    counted.command("sacctmgr", "-i", "modify", "account", "lab", "set", f"maxsubmit={limit}")
    for name in ("light", "more"):
        alignc("submit", f"{name}.yaml", "--store", "s", "--cluster", "lab.yaml", cwd=tmp_path)
    for name in ("light", "more"):
        assert set(wait_for(f"{name}.yaml", "s", tmp_path, 300).values()) == {"done"}
    tries = [path.read_text().count("== ") for path in (tmp_path / "s" / ".logs").glob("*.log")]
    assert set(tries) == {1}


def test_no_room_at_all_is_told(counted: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    counted.command("sacctmgr", "-i", "modify", "account", "lab", "set", "maxsubmit=1")
    counted.command("sbatch", "--account=lab", "--hold", "--output=/dev/null", "--wrap=true")
    (tmp_path / "lab.yaml").write_text("account: lab\n")
    words = ("submit", "light.yaml", "--store", "s", "--cluster", "lab.yaml")
    told = alignc(*words, cwd=tmp_path, code=2)
    assert "MaxSubmitJobs of account lab is 1, and 1 are there" in told and "submit again when" in told
    assert "8 waiting" in alignc("status", "light.yaml", "--store", "s", cwd=tmp_path)


def test_accounting_tells_how_jobs_ended_that_the_queue_has_forgotten(
    counted: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    told = status_of_forgotten_jobs(counted, tmp_path, "failed   prompts")
    assert "it ended with an error (FAILED)" in told
