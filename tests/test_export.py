"""`alignc export`: the scripts run where there is no compiler, and give the same artifacts and tables."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import alignc, artifacts, tables
from tests.specs import LIGHT

ROOT = Path(__file__).parent.parent


@pytest.fixture
def light(tmp_path: Path) -> Path:
    (tmp_path / "light.yaml").write_text(LIGHT)
    return tmp_path


def without_compiler(folder: Path, *words: str | Path, code: int = 0, **more: str) -> str:
    """Run a script with a Python in which `import compiler` fails; returns what it printed."""
    away = folder / "away" / "compiler"
    away.mkdir(parents=True, exist_ok=True)
    (away / "__init__.py").write_text("raise ImportError('there is no compiler here')\n")
    path = f"{away.parent}{os.pathsep}{ROOT}"
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **more},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_scripts_run_without_the_compiler_to_the_same_tables(light: Path) -> None:
    told = alignc("export", "light.yaml", "my scripts", "--store", "left store", cwd=light)
    assert "wrote my scripts: 5 jobs of 8 nodes" in told
    assert "no compiler here" in without_compiler(light, "python", "-m", "compiler.cli", code=1)
    moved = light / "else where" / "scripts"  # the folder may move; blanks must arrive
    moved.parent.mkdir()
    (light / "my scripts").rename(moved)
    told = without_compiler(light, moved / "run.sh")
    assert told.splitlines()[:3] == ["prompts", "right", "wrong[seed=0]"]
    told = without_compiler(light, moved / "results.sh")
    assert "Weak" in told and "wrote results/main.md" in told
    alignc("run", "light.yaml", "--store", "here", cwd=light)
    assert artifacts(light / "left store") == artifacts(light / "here")
    made = {
        p.name: p.read_bytes() for p in (moved / "results").iterdir() if p.suffix in (".md", ".csv", ".tex")
    }
    assert made == tables("light.yaml", "here", light)
    assert "8 of 8 nodes done" in alignc("status", "light.yaml", "--store", "left store", cwd=light)


def test_another_store_is_a_line_of_the_settings(light: Path) -> None:
    alignc("export", "light.yaml", "out", "--store", "s", cwd=light)
    settings = light / "out" / "settings.sh"
    settings.write_text(settings.read_text().replace(f"STORE={light}/s", "STORE=mine"))
    without_compiler(light, "out/run.sh")
    assert len(artifacts(light / "out" / "mine")) == 8 and not (light / "s" / "prepare").exists()


def test_missing_exports_what_the_plan_would_run(light: Path) -> None:
    alignc("run", "light.yaml", "--store", "s", cwd=light)
    assert "nothing is missing" in alignc(
        "export", "light.yaml", "out", "--store", "s", "--missing", cwd=light, code=2
    )
    shutil.rmtree(light / "s" / "label")
    told = alignc("export", "light.yaml", "out", "--store", "s", "--missing", cwd=light)
    assert "1 job of 2 nodes" in told and len(list((light / "out" / "nodes").iterdir())) == 2
    without_compiler(light, "out/run.sh")
    assert len(artifacts(light / "s")) == 8


def test_a_failure_is_told_and_the_rest_is_made(light: Path) -> None:
    text = LIGHT.replace("{kind: world, size: 200}", "{kind: jsonl, path: t.jsonl, answer: answer}")
    text = text.replace("sources:", "sources:\n  good: {kind: world}")
    text = text.replace("tables:", "  more: {kind: prepare, source: good}\ntables:")
    (light / "light.yaml").write_text(text)
    (light / "t.jsonl").write_text("not json\n")
    alignc("export", "light.yaml", "out", "--store", "s", cwd=light)
    told = without_compiler(light, "out/run.sh", code=1)
    assert "t.jsonl:1: not JSON" in told and "prompts was not made; its log: " in told
    assert "8 nodes not made" in told and list(artifacts(light / "s").values()) == ["prepare"]


def test_a_folder_that_holds_anything_is_not_touched(light: Path) -> None:
    (light / "out").mkdir()
    alignc("export", "light.yaml", "out", cwd=light)  # empty: fine
    before = sorted(p.name for p in (light / "out").iterdir())
    assert "is there already" in alignc("export", "light.yaml", "out", cwd=light, code=2)
    assert sorted(p.name for p in (light / "out").iterdir()) == before
    assert sorted(p.name for p in light.iterdir()) == ["light.yaml", "out"]


SBATCH = """\
#!/bin/bash
# Stands in for sbatch: notes its words, gives ids with a cluster's name, refuses the score.
printf '%q ' "$@" >> "$CALLS"; echo >> "$CALLS"
case "${@: -1}" in *score*) echo 'no such partition' >&2; exit 1 ;; esac
echo "$(wc -l < "$CALLS");cluster"
"""


def test_submit_stops_at_the_first_refusal(light: Path) -> None:
    """With a stand-in for sbatch; tests/slurm has the real one."""
    alignc("export", "light.yaml", "out", cwd=light)
    (light / "bin").mkdir()
    (light / "bin" / "sbatch").write_text(SBATCH)
    (light / "bin" / "sbatch").chmod(0o755)
    calls = light / "calls"
    told = without_compiler(
        light, "out/submit.sh", "--comment=two words", code=1,
        PATH=f"{light / 'bin'}:{os.environ['PATH']}", CALLS=str(calls),
    )  # fmt: skip
    assert "submitted light.wrong as Slurm job 3" in told
    assert "no such partition" in told and "sbatch refused light.score" in told
    assert "scancel 1 2 3" in told and "labels" not in told
    words = [shlex.split(line) for line in calls.read_text().splitlines()]
    option = ["--parsable", "--comment=two words"]
    assert words == [
        [*option, "jobs/light.prompts.sh"],
        [*option, "--dependency=afterany:1", "jobs/light.right.sh"],
        [*option, "--dependency=afterany:1", "jobs/light.wrong.sh"],
        [*option, "--dependency=afterany:3:2", "jobs/light.score.sh"],
    ]


def test_a_selection_is_exported_with_what_the_store_has(light: Path) -> None:
    text = alignc("export", "light.yaml", "out", "--select", "score", cwd=light, code=2)
    assert "needs wrong[seed=0], which is not selected" in text and not (light / "out").exists()
    alignc("run", "light.yaml", "--store", "s", cwd=light)
    alignc("export", "light.yaml", "out", "--store", "s", "--select", "score", cwd=light)
    assert [p.name for p in (light / "out" / "jobs").glob("*.sh")] == ["light.score.sh"]
