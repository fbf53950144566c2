"""Presets: values beneath a stage's own, which no key knows by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import SpecError
from compiler.frontend.presets import presets
from compiler.planning.explain import explain
from compiler.planning.plan import State, make_plan
from compiler.program import Program
from runtime.stage import stage_kind
from tests.compiler.specs import HEAD, compile_text

STAGES = """\
stages:
  prompts: {kind: prepare, source: tasks}
  answers: {kind: demonstrate, prompts: prompts, teacher: weak}
  tune: {kind: sft, model: tiny, data: answers, %s}
"""
BY_HAND = (
    "chat: human_assistant, optimizer: rmsprop, learning_rate: 1e-6, epochs: 9, max_grad_norm: 10, "
    "truncation: keep_end, reduction: example_sum"
)


def compiled(folder: Path, fields: str) -> Program:
    return compile_text(folder, HEAD + STAGES % fields)


def test_the_same_values_give_the_same_key(tmp_path: Path) -> None:
    named = compiled(tmp_path, "preset: sharma2024, learning_rate: 1e-6")
    assert named.keys == compiled(tmp_path, BY_HAND).keys
    assert named.keys != compiled(tmp_path, "preset: sharma2024").keys


def test_a_sweep_stands_over_the_preset(tmp_path: Path) -> None:
    swept = compiled(tmp_path, "preset: sharma2024, sweep: {learning_rate: [1e-6, 1e-5]}")
    assert compiled(tmp_path, BY_HAND).keys[-1] in swept.keys and len(swept.keys) == 4


def test_explain_tells_where_values_are_from(tmp_path: Path) -> None:
    program = compiled(tmp_path, "preset: sharma2024, learning_rate: 1e-6")
    told = {v.name: v for v in explain(make_plan(program, State()), 2).values}
    assert told["optimizer"].place == "presets/sharma2024.yaml:5"
    assert told["optimizer"].notes[0].startswith("preset sharma2024, named at ")
    assert told["learning_rate"].notes == ("overrides 1e-07 at presets/sharma2024.yaml:8",)
    assert told["weight_decay"].place == ""


@pytest.mark.parametrize("name", presets())
def test_presets_name_fields_of_their_kinds(name: str) -> None:
    for kind, fields in presets()[name].items.items():
        declared = stage_kind(kind)
        assert declared is not None and fields.items.keys() <= declared.config.model_fields.keys()


def test_a_misspelt_name_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no preset `sharma2023`") as caught:
        compiled(tmp_path, "preset: sharma2023")
    assert "did you mean `sharma2024`?" in str(caught.value)
    with pytest.raises(SpecError, match="there is no preset `sharma2024` for the stage kind `prepare`"):
        compile_text(tmp_path, HEAD + "stages: {p: {kind: prepare, source: tasks, preset: sharma2024}}")
