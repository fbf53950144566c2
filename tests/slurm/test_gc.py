"""`alignc gc` beside a real queue: what waits there keeps what it is made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import alignc, artifacts
from tests.conftest import Cluster
from tests.slurm.test_submit import wait_for
from tests.specs import LIGHT
from tests.test_gc import OTHER

pytestmark = pytest.mark.slurm


def test_what_is_queued_stays_with_its_inputs(slurm: Cluster, tmp_path: Path) -> None:
    for name, text in (("light.yaml", LIGHT), ("other.yaml", OTHER)):
        (tmp_path / name).write_text(text)
        alignc("run", name, "--store", "s", cwd=tmp_path)
    whole = artifacts(tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "label")
    slurm.command("scontrol", "update", "partitionname=main", "state=down")
    try:
        alignc("submit", "other.yaml", "--store", "s", cwd=tmp_path)
        told = alignc("gc", "light.yaml", "--store", "s", "--yes", cwd=tmp_path)
        assert "0 to remove" in told and "2 in use by other work" in told
    finally:
        slurm.command("scontrol", "update", "partitionname=main", "state=up")
    assert set(wait_for("other.yaml", "s", tmp_path).values()) == {"done"}
    alignc("run", "light.yaml", "--store", "s", cwd=tmp_path)
    assert artifacts(tmp_path / "s") == whole
