"""`alignc export` on a real cluster: submit.sh makes what `run` makes, without the compiler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.commands import alignc, artifacts
from tests.conftest import Cluster
from tests.specs import LIGHT
from tests.test_export import without_compiler

pytestmark = pytest.mark.slurm


def test_submit_makes_what_run_makes(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    alignc("export", "light.yaml", "my scripts", "--store", "on slurm", cwd=tmp_path)
    told = without_compiler(tmp_path, "my scripts/submit.sh", "--partition=low")
    assert told.count("submitted light.") == 5
    slurm.wait_until_empty()
    assert len(list((tmp_path / "my scripts" / "logs").iterdir())) == 8
    alignc("run", "light.yaml", "--store", "local", cwd=tmp_path)
    assert artifacts(tmp_path / "on slurm") == artifacts(tmp_path / "local")
    assert "wrote results/main.md" in without_compiler(tmp_path, "my scripts/results.sh")
    without_compiler(tmp_path, "my scripts/submit.sh")  # all is sealed: each job ends at once
    slurm.wait_until_empty()
    assert artifacts(tmp_path / "on slurm") == artifacts(tmp_path / "local")


def test_a_refusal_says_what_was_submitted(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    words = ("--set", "stages.score.resources={partition: moon}")
    alignc("export", "light.yaml", "out", "--store", "s", *words, cwd=tmp_path)
    told = without_compiler(tmp_path, "out/submit.sh", code=1)
    assert "invalid partition" in told and "sbatch refused light.score" in told
    (undo,) = (
        line.partition("take them back: ")[2] for line in told.splitlines() if "take them back" in line
    )
    assert undo.startswith("scancel ") and len(undo.split()) == 4
    subprocess.run(undo.split(), check=True)
    slurm.wait_until_empty()
