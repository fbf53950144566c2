"""Presets: values beneath a stage's own, which no key knows by name."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from compiler.errors import SpecError
from compiler.frontend.presets import fields_of, shipped
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


@pytest.mark.parametrize("name", shipped())
def test_presets_name_fields_of_their_kinds(name: str) -> None:
    for kind, fields in shipped()[name].items():
        declared = stage_kind(kind)
        assert declared is not None and fields.keys() <= fields_of(declared)


def test_a_misspelt_name_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no preset `sharma2023`") as caught:
        compiled(tmp_path, "preset: sharma2023")
    assert "did you mean `sharma2024`?" in str(caught.value)
    with pytest.raises(SpecError, match="there is no preset `sharma2024` for the stage kind `prepare`"):
        compile_text(tmp_path, HEAD + "stages: {p: {kind: prepare, source: tasks, preset: sharma2024}}")


# ---------------------------------------------------------------- of evaluations and labels

JUDGED = """\
stages:
  prompts: {kind: prepare, source: tasks, split: {a: 50%%, test: 50%%}}
  answers: {kind: demonstrate, prompts: prompts.test, teacher: weak}
  ours: {kind: evaluate, model: tiny, prompts: prompts.test, reference: answers, evaluator: weak, %s}
  theirs: {kind: evaluate, completions: answers, evaluator: weak, reference: answers, %s}
  labels: {kind: label, critic: weak, a: answers, b: ours~samples, %s}
"""


def test_the_study_evaluates_colder_than_it_samples(tmp_path: Path) -> None:
    """What is sampled on the spot takes the preset's sampling; an evaluation of what is there has none."""
    named = compile_text(tmp_path, HEAD + JUDGED % (("preset: sharma2024",) * 3))
    written = "temperature: 0.7, top_p: 0.9, max_new_tokens: 256, max_prompt_length: 256, order: coin"
    by_hand = compile_text(tmp_path, HEAD + JUDGED % (written, "judge_max_tokens: 50", "order: coin"))
    assert named.keys == by_hand.keys
    over = compile_text(tmp_path, HEAD + JUDGED % ("preset: sharma2024, temperature: 1.0", *([""] * 2)))
    told = {v.name: v for v in explain(make_plan(over, State()), index(over, "ours~samples")).values}
    assert told["temperature"].notes[0].startswith("overrides 0.7 at presets/sharma2024.yaml:")
    assert told["top_p"].notes[0].startswith("preset sharma2024, named at ")


def test_editors_take_a_specs_own_presets() -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs" / "spec.schema.json").read_text())
    text = OWN + HEAD + STAGES % "preset: warm"
    jsonschema.validate(yaml.safe_load(text), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text.replace("bf16", "bf17")), schema)


def index(program: Program, id_: str) -> int:
    return next(i for i, node in enumerate(program.graph.nodes) if node.id == id_)


# ---------------------------------------------------------------- a spec's own

OWN = """presets:
  ours:
    preset: sharma2024
    sft: {precision: bf16, epochs: 3, learning_rate: 1e-6}
  warm: {preset: ours, sft: {warmup_steps: 150}}
"""


def test_a_spec_has_presets_of_its_own_and_includes_them(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(OWN)
    text = "include: lab.yaml\n" + HEAD + STAGES % "preset: warm, epochs: 9, precision: fp32, warmup_steps: 0"
    program = compile_text(tmp_path, text)
    assert program.keys == compiled(tmp_path, BY_HAND).keys
    told = {v.name: v for v in explain(make_plan(program, State()), 2).values}
    assert told["learning_rate"].place.endswith("lab.yaml:4")
    assert [note.partition(" at ")[0] for note in told["learning_rate"].notes][:2] == [
        "preset warm, named",
        "preset ours, named",
    ]
    assert [note.partition(" at ")[0] for note in told["optimizer"].notes][:3] == [
        "preset warm, named",
        "preset ours, named",
        "preset sharma2024, named",
    ]
    assert told["epochs"].notes[0].startswith("overrides 3 at ")


@pytest.mark.parametrize(
    ("presets", "message", "place", "hint"),
    [
        ("{sharma2024: {}}", "a preset `sharma2024` ships with alignc", 1, "give yours another name"),
        ("{p: {sfd: {}}}", "there is no stage kind `sfd`", 1, "did you mean `sft`?"),
        (
            "\n  p:\n    sft: {epoch: 3}",
            "the stage kind `sft` has no key `epoch`",
            3,
            "did you mean `epochs`?",
        ),
        ("{p: {evaluate: {temprature: 0}}}", "no key `temprature`", 1, "did you mean `temperature`?"),
        ("{p: {preset: sharma2023}}", "no preset `sharma2023` for `p` to lie over", 1, "`sharma2024`?"),
        ("{p: {preset: q}, q: {preset: p}}", "preset `p` lies over itself", 1, ""),
        ("{p: [sft]}", "preset `p` is a mapping of stage kinds to fields", 1, ""),
        ("{p: {sft: 3}}", "`sft` of preset `p` is a mapping of fields", 1, ""),
    ],
)
def test_what_is_wrong_with_a_preset_is_told_where_it_stands(
    tmp_path: Path, presets: str, message: str, place: int, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        compile_text(tmp_path, f"presets: {presets}\n" + HEAD + STAGES % "epochs: 1, learning_rate: 1e-3")
    told = str(caught.value)
    assert message in told and hint in told and f":{place}:" in told.splitlines()[0]


def test_a_bad_value_of_a_preset_is_told_with_the_stage_that_names_it(tmp_path: Path) -> None:
    text = "presets: {p: {sft: {epochs: none}}}\n" + HEAD + STAGES % "preset: p, learning_rate: 1e-3"
    with pytest.raises(SpecError) as caught:
        compile_text(tmp_path, text)
    assert "`epochs`" in str(caught.value) and "preset p, named at" in str(caught.value)
