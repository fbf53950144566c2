"""`pip install .` gives a working command outside the checkout: templates are in the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.specs import LIGHT

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_an_installed_package_plans_and_runs(tmp_path: Path) -> None:
    site = tmp_path / "site"
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, ROOT]
    subprocess.run(words, check=True, timeout=300)
    (tmp_path / "light.yaml").write_text(LIGHT)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for command in (["check"], ["plan", "--format", "sbatch"], ["run"], ["results"]):
        done = subprocess.run(
            [site / "bin" / "alignc", *command, "light.yaml"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    code = "import compiler, runtime.templates as t; print(compiler.__file__, t.folder())"
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(str(site) in word for word in told.stdout.split())
