"""Batch scripts of a site: paths of nodes, folders, containers, mail; as text and as bash runs them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from compiler.output import emit
from compiler.planning.plan import State, make_plan
from compiler.program import Program
from compiler.site.profile import Profile
from compiler.site.shell import node_path
from runtime.store import Store
from tests.compiler.specs import HEAD, compile_text
from tests.golden import check_golden


@pytest.mark.parametrize(
    ("text", "word", "read"),
    [
        ("/scratch/me", "/scratch/me", "/scratch/me"),
        ("/a b", "'/a b'", "/a b"),
        ("/scratch/$WHO/x y", '"/scratch/${WHO:?is not set on this node}/x y"', "/scratch/ann lee/x y"),
        ('${WHO}$(touch bad)`id`"\\', None, 'ann lee$(touch bad)`id`"\\'),
        ("~/cache", None, "/home/ann/cache"),
        ("/price$5", None, "/price$5"),
    ],
)
def test_paths_of_nodes_are_quoted_but_for_variables(
    text: str, word: str | None, read: str, tmp_path: Path
) -> None:
    assert word is None or node_path(text) == word
    done = subprocess.run(
        ["bash", "-c", f"printf %s {node_path(text)}"],
        env={"WHO": "ann lee", "HOME": "/home/ann"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == read and not list(tmp_path.iterdir())


def test_a_variable_that_is_not_set_ends_the_job() -> None:
    done = subprocess.run(
        ["bash", "-c", f"mkdir {node_path('/$NOBODY/x')}; exit 0"], capture_output=True, env={}
    )
    assert done.returncode != 0 and b"NOBODY: is not set on this node" in done.stderr


SITE: dict[str, Any] = {
    "account": "lab",
    "partitions": {
        "cpu": {"max_minutes": 1440, "cpus": 8},
        "gpu": {"gpus": 4, "gpu_type": "a100", "account": "lab-gpu", "constraint": "nvlink"},
    },
    "resources": [{"kind": "sft", "gpus": 1, "cpus": 4, "memory_gb": 60}],
    "setup": ["module load apptainer"],
    "environment": {"HF_HOME": "/data/hub"},
    "scratch": "/scratch/$USER",
    "cache": "~/cache",
    "network_interface": "ib0",
    "launch": "srun --mpi=none",
    "mail": {"to": "me@example.org", "on": ["end", "fail"]},
    "webhook": {"url_env": "HOOK"},
}
STAGES = """\
stages:
  prompts: {kind: prepare, source: tasks}
  answers: {kind: demonstrate, prompts: prompts, teacher: weak}
  tune: {kind: sft, model: tiny, data: answers, epochs: 1, learning_rate: 1e-3, chat: plain}
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return compile_text(tmp_path, HEAD + STAGES)


@pytest.mark.parametrize(
    ("name", "container"),
    [
        (
            "apptainer",
            {"apptainer": "/images/my image.sif", "binds": ["/data:/data:ro"], "options": ["--cleanenv"]},
        ),
        ("pyxis", {"pyxis": "nvcr.io#nvidia/pytorch:25.01-py3", "binds": ["/data", "$HOME/x:/x"]}),
    ],
)
def test_golden_scripts_of_a_site(
    program: Program, name: str, container: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compiler.planning.place import placed

    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    monkeypatch.setattr("compiler.slurm.script.description_file", lambda *_: Path("/shared/s/end.json"))
    profile = Profile.model_validate({**SITE, "container": container})
    text = emit.to_sbatch(
        make_plan(placed(program, profile), State()), profile, Store(Path("/shared/a store"))
    )
    check_golden(f"plan/site.{name}.sbatch", text + "\n")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
