"""A node explained: golden text, JSON, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.output.emit import SIGNS
from compiler.planning.explain import explain, to_text
from compiler.planning.plan import State, make_plan
from compiler.program import compile_spec
from tests.commands import alignc
from tests.compiler.specs import STUDY, node_ids
from tests.golden import check_golden


@pytest.mark.parametrize(
    ("name", "node"), [("leg", "tune[seed=1,learning_rate=0.0005,epoch=4]"), ("samples", "samples[seed=0]")]
)
def test_golden_explanations(name: str, node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    program = compile_spec("study.yaml", ["stages.tune.weight_decay=0.1"])
    told = explain(make_plan(program, State()), node_ids(program).index(node))
    check_golden(f"explain/{name}.txt", to_text(told, SIGNS[told.action]) + "\n")


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    assert "samples[seed=1]: sample version 1" in alignc(
        "explain", "study.yaml", "samples[seed=1]", cwd=tmp_path
    )
    (told,) = json.loads(alignc("explain", "study.yaml", "base", "--format", "json", cwd=tmp_path))
    assert told["schema"] == "alignc.node/1" and told["inputs"][1]["source"] == "corpus"
    assert "is 12 nodes: name fewer" in alignc("explain", "study.yaml", "tune", cwd=tmp_path, code=2)
    assert "did you mean" in alignc("explain", "study.yaml", "bases", cwd=tmp_path, code=2)
