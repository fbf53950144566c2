"""The command as a user types it: words, exit codes, what it must not import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import alignc
from tests.compiler.specs import STUDY

COMMANDS = (
    "check",
    "plan",
    "run",
    "submit",
    "status",
    "logs",
    "results",
    "export",
    "gc",
    "adopt",
    "diff",
    "explain",
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str, tmp_path: Path) -> None:
    text = alignc(command, "--help", cwd=tmp_path)
    assert f"alignc {command}" in text
    assert "--store" in text and "ALIGNC_STORE" in text and "--set" in text


def test_check(study: Path) -> None:
    assert "study.yaml: right; 17 stages, 58 nodes, 1 table" in alignc("check", "study.yaml", cwd=study)
    text = alignc("check", "study.yaml", "--set", "stages.tune.epochs=x", cwd=study, code=2)
    assert "error AC103" in text and "1 problem found" in text


def test_a_missing_spec(tmp_path: Path) -> None:
    assert "cannot read gone.yaml: No such file" in alignc("check", "gone.yaml", cwd=tmp_path, code=2)


def test_planning_touches_nothing(study: Path) -> None:
    alignc("plan", "study.yaml", cwd=study)
    assert [p.name for p in study.iterdir()] == ["study.yaml"]


def test_plan_json_and_the_store_of_the_environment(study: Path) -> None:
    text = alignc("plan", "study.yaml", "--format", "json", cwd=study, ALIGNC_STORE="elsewhere")
    assert json.loads(text)["experiment"] == "study"
    script = alignc("plan", "study.yaml", "--format", "sbatch", cwd=study, ALIGNC_STORE="elsewhere")
    assert f"runtime.run_task {study}/elsewhere" in script


def test_unknown_names(study: Path) -> None:
    text = alignc("logs", "study.yaml", "tunee", cwd=study, code=2)
    assert "there is no stage `tunee`; did you mean `tune`?" in text
    assert "has not been started" in alignc("logs", "study.yaml", "base", cwd=study, code=2)
    assert "there is no cluster profile 'moon'" in alignc(
        "plan", "study.yaml", "--cluster", "moon", cwd=study, code=2
    )


def test_status_of_nothing_yet(study: Path) -> None:
    assert "study: 0 of 58 nodes done; 58 waiting" in alignc("status", "study.yaml", cwd=study)
    told = json.loads(alignc("status", "study.yaml", "--format", "json", cwd=study))
    assert {n["phase"] for n in told["nodes"]} == {"waiting"}


def test_a_budget_is_held(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_ = study / "bin"
    bin_.mkdir()
    for name in ("sbatch", "squeue"):
        (bin_ / name).write_text("#!/bin/sh\nexit 1\n")
        (bin_ / name).chmod(0o755)
    import os

    words = ("--set", "stages.tune.resources={gpus: 1, minutes: 600}", "--set", "budget.gpu_hours=0.01")
    path = f"{bin_}:{os.environ['PATH']}"
    text = alignc("submit", "study.yaml", *words, cwd=study, code=2, PATH=path)
    assert "over budget: 0 spent and" in text and "of 0.01 GPU-hours" in text


@pytest.mark.parametrize("module", ["compiler", "compiler.cli", "compiler.program", "compiler.planning.plan"])
def test_the_compiler_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "submitit", "networkx", "numpy", "openai")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_runtime_does_not_know_the_compiler() -> None:
    folder = Path(__file__).parents[2] / "runtime"
    for path in folder.rglob("*.py"):
        text = path.read_text()
        assert "import compiler" not in text and "from compiler" not in text, path
