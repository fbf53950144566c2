"""Causes: for an edit of a spec the changes that are told, with their places and what they move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.planning.causes import causes, effects, pairs, recipes
from compiler.program import Program, compile_spec
from tests.compiler.specs import HEAD, STUDY, node_ids


def compiled(text: str, *overrides: str) -> Program:
    Path("spec.yaml").write_text(text, encoding="utf-8")
    return compile_spec("spec.yaml", overrides)


def remembered(program: Program) -> dict[str, Any]:
    """What a store remembers of a program: after a round trip through JSON."""
    return json.loads(json.dumps(recipes(program)))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(old: str, new: str, *overrides: str) -> list[str]:
    before = remembered(compiled(old))
    return [str(e) for e in effects(causes(before, compiled(new, *overrides)))]


EDITS: list[tuple[str, str, str, list[str]]] = [  # name, text, its replacement, what is told
    (
        "a field",
        "epochs: 6\n",
        "batch_size: 4\n    epochs: 6\n",
        ["batch_size 8 -> 4, spec.yaml:24; 10 stages after it (40 nodes)"],
    ),
    (
        "a longer run",
        "epochs: 6",
        "epochs: 8",
        ["epoch [2, 4, 6] -> [2, 4, 6, 8], spec.yaml:24; 7 stages after it (14 nodes)"],
    ),
    (
        "a last stage",
        "dpo, ",
        "dpo, beta: 0.2, ",
        ["beta 0.1 -> 0.2, spec.yaml:32; 2 stages after it (4 nodes)"],
    ),
    (
        "a field left out",
        "temperature: 0.7, ",
        "",
        ["temperature 0.7 -> 1.0, spec.yaml:28; 9 stages after it (28 nodes)"],
    ),
    (
        "a new arm",
        "5e-4]",
        "5e-4, 3e-3]",
        [
            "learning_rate [0.001, 0.0005] -> [0.001, 0.0005, 0.003], spec.yaml:27; "
            "7 stages after it (14 nodes)"
        ],
    ),
    (
        "an arm less",
        "[1e-3, 5e-4]",
        "[1e-3]",
        ["learning_rate [0.001, 0.0005] -> [0.001], spec.yaml:27; 7 stages after it (14 nodes)"],
    ),
    (
        "another arm",
        "5e-4]",
        "2e-4]",
        ["learning_rate [0.001, 0.0005] -> [0.001, 0.0002], spec.yaml:27; 7 stages after it (14 nodes)"],
    ),
    ("a new seed", "seed: [0, 1]", "seed: [0, 1, 2]", []),
    (
        "a declaration",
        "hidden_size: 64",
        "hidden_size: 128",
        ["models.tiny.init.hidden_size 64 -> 128, spec.yaml:5; 11 stages after it (52 nodes)"],
    ),
    (
        "another provider",
        "{provider: simulated, error_rate: 0.05}",
        "{provider: openai, model: gpt-4o-2024-11-20}",
        ["llms.critic.provider simulated -> openai, spec.yaml:8; 2 stages after it (4 nodes)"],
    ),
    (
        "another declaration",
        "prompts.sft, teacher: weak",
        "prompts.sft, teacher: critic",
        ["teacher weak -> critic, spec.yaml:16; 11 stages after it (52 nodes)"],
    ),
    (
        "another input",
        "sample, model: best",
        "sample, model: base",
        ["model best -> base, spec.yaml:30; 4 stages after it (7 nodes)"],
    ),
    (
        "another output",
        "prompts: prompts.sft",
        "prompts: prompts.aif",
        ["prompts prompts.sft -> prompts.aif, spec.yaml:16; 11 stages after it (52 nodes)"],
    ),
    (
        "a declaration in place of a stage",
        "sample, model: best",
        "sample, chat: plain, model: tiny",
        [
            "chat none -> plain, spec.yaml:30; 4 stages after it (7 nodes)",
            "model best -> tiny, spec.yaml:30; 4 stages after it (7 nodes)",
        ],
    ),
    (
        "another kind",
        "{kind: demonstrate, prompts: prompts.test, teacher: weak}",
        "{kind: sample, prompts: prompts.test, model: base}",
        ["kind demonstrate -> sample, spec.yaml:18; 2 stages after it (4 nodes)"],
    ),
    (
        "two entries of a mapping",
        "sft: 10%, aif: 70%",
        "sft: 20%, aif: 60%",
        [
            "split.sft 10% -> 20%, spec.yaml:14; 14 stages after it (55 nodes)",
            "split.aif 70% -> 60%, spec.yaml:14; 14 stages after it (55 nodes)",
        ],
    ),
    ("a stage's name", "answers", "texts", []),
    ("a declaration's name", "weak", "feeble", []),
    ("resources", "epochs: 6", "resources: {cpus: 2}\n    epochs: 6", []),
]


@pytest.mark.parametrize(("old", "new", "wanted"), [e[1:] for e in EDITS], ids=[e[0] for e in EDITS])
def test_edits(old: str, new: str, wanted: list[str]) -> None:
    assert old in STUDY
    assert told(STUDY, STUDY.replace(old, new)) == wanted


def test_a_value_of_an_axis_is_found_there() -> None:
    text = STUDY.replace("seed: [0, 1]", "seed:\n    0: {rate: 6}\n    1: {rate: 6}")
    old = text.replace("epochs: 6", "batch_size: ${seed.rate}\n    epochs: 6")
    new = old.replace("1: {rate: 6}", "1: {rate: 8}")
    assert told(old, new) == ["batch_size 6 -> 8, spec.yaml:5; 10 stages after it (20 nodes)"]


def test_an_override_is_the_place() -> None:
    line = "beta 0.1 -> 0.2, --set stages.rlaif.beta:1; 2 stages after it (4 nodes)"
    assert told(STUDY, STUDY, "stages.rlaif.beta=0.2") == [line]


def test_two_causes_are_both_told_where_they_meet() -> None:
    before = remembered(compiled(STUDY))
    found = causes(before, compiled(STUDY.replace("epochs: 6", "epochs: 8").replace("size: 64", "size: 128")))
    fields = {id_: [c.field for c in cause.changes] for id_, cause in found.items()}
    assert fields["base"] == ["init.hidden_size"]
    assert fields["best[seed=1]"] == ["epoch", "init.hidden_size"]
    assert [c.field for c in found["best[seed=1]"].own] == ["epoch"] and "corpus" not in found


def test_work_that_another_stage_does_too_is_told_apart() -> None:
    """`extra` comes first and does what `answers` now does."""
    extra = "stages:\n  extra: {kind: demonstrate, prompts: prompts.sft, teacher: critic}\n"
    old = STUDY.replace("stages:\n", extra)
    new = old.replace("prompts.sft, teacher: weak", "prompts.sft, teacher: critic")
    assert told(old, new) == ["teacher weak -> critic, spec.yaml:17; 11 stages after it (52 nodes)"]


def test_candidates_that_another_stage_trains_too() -> None:
    lines = STUDY[STUDY.index("  tune:") : STUDY.index("  score:")]
    old = STUDY.replace("  score:", lines.replace("tune:", "again:") + "  score:", 1)
    change = "learning_rate [0.001, 0.0005] -> [0.001, 0.0005, 0.003]"
    new = old.replace("5e-4]", "5e-4, 3e-3]")
    assert [c.partition(", spec.yaml")[0] for c in told(old, new)] == [change]
    assert told(old, old.replace("dpo, ", "dpo, beta: 0.2, "))[0].startswith("beta 0.1 -> 0.2")
    both = old.replace("epochs: 6\n", "batch_size: 4\n    epochs: 6\n")
    assert {c.partition(",")[0] for c in told(old, both)} == {"batch_size 8 -> 4"}


def test_a_stage_that_changed_its_name_too_is_followed() -> None:
    new = STUDY.replace("answers", "texts").replace(
        "prompts.sft, teacher: weak", "prompts.sft, teacher: weak, seed: 3"
    )
    before = remembered(compiled(STUDY))
    found = causes(before, compiled(new))
    assert found["texts"].was == "answers"
    assert {str(c) for cause in found.values() for c in cause.changes} == {"seed 0 -> 3, spec.yaml:16"}


def test_the_content_of_a_file() -> None:
    text = (
        HEAD.replace("{kind: world}", "{kind: jsonl, path: rows.jsonl}")
        + "stages: {p: {kind: prepare, source: tasks}}"
    )
    Path("rows.jsonl").write_text('{"prompt": "a"}\n')
    before = remembered(compiled(text))
    Path("rows.jsonl").write_text('{"prompt": "b"}\n')
    (effect,) = effects(causes(before, compiled(text)))
    assert str(effect) == "the files of sources.tasks have other content, spec.yaml:4"


@pytest.mark.parametrize(
    ("part", "before", "line"),
    [
        ("version", 0, "code version of label 0 -> 1; 1 stage after it (2 nodes)"),
        ("hash", 0, "version of keys 0 -> 1; 1 stage after it (2 nodes)"),
        (
            "templates",
            {"judge/pairwise.j2": "old"},
            "template judge/pairwise.j2 has another text; 1 stage after it (2 nodes)",
        ),
    ],
)
def test_code_and_templates(part: str, before: Any, line: str) -> None:
    """What an older alignc would have remembered of labels, and of rlaif, which reads them."""
    program = compiled(STUDY)
    old = remembered(program)
    for seed in ("seed=0", "seed=1"):
        labels, reader = old[f"labels[{seed}]"], old[f"rlaif[{seed}]"]
        labels["recipe"][part] = before
        labels["key"] = reader["recipe"]["inputs"]["data"][0][0] = f"older labels {seed}"
        reader["key"] = f"older rlaif {seed}"
    found = effects(causes(old, program))
    assert [str(e) for e in found] == [line]


def fallen_on(candidate: str, text: str = STUDY) -> Program:
    """The study after the choices of seed 0 and 1 were made, both alike."""
    plain = compiled(text)
    keys = dict(zip(node_ids(plain), plain.keys, strict=True))
    fell = {keys[f"best[seed={s}]"]: keys[f"tune[seed={s},{candidate}]"] for s in (0, 1)}
    return compile_spec("spec.yaml", chosen=lambda kind, key: (fell[key], "") if key in fell else None)


def test_a_choice_that_fell_on_another_candidate() -> None:
    before = remembered(fallen_on("learning_rate=0.0005,epoch=2"))
    found = causes(before, fallen_on("learning_rate=0.001,epoch=6"))
    assert [str(c) for c in found["rlaif_test[seed=0]"].changes] == [
        "best chose tune[seed=0,learning_rate=0.0005,epoch=2], "
        "now tune[seed=0,learning_rate=0.001,epoch=6], spec.yaml:29"
    ]
    (change,) = causes(remembered(compiled(STUDY)), fallen_on("learning_rate=0.001,epoch=6"))[
        "samples[seed=1]"
    ].own
    assert change.text == "best chose nothing yet, now tune[seed=1,learning_rate=0.001,epoch=6]"


def test_a_choice_that_is_to_be_made_again() -> None:
    before = remembered(fallen_on("learning_rate=0.0005,epoch=2"))
    new = compiled(STUDY.replace("5e-4]", "5e-4, 3e-3]"))
    (effect,) = effects(causes(before, new))
    assert effect.own == ("best[seed=0]", "best[seed=1]")
    assert str(effect).startswith("learning_rate [0.001, 0.0005] -> [0.001, 0.0005, 0.003], spec.yaml:27; 7")


def test_equal_programs_have_no_causes_and_pairs_are_ids() -> None:
    program = compiled(STUDY)
    assert causes(remembered(program), program) == {}
    assert pairs(remembered(program), program) == node_ids(program)
    assert causes({}, program) == {} and set(pairs({}, program)) == {None}


def test_a_falling_schedule_says_why_nothing_is_gone_on_from() -> None:
    falling = STUDY.replace("epochs: 6", "epochs: 6\n    schedule: cosine")
    found = causes(remembered(compiled(falling)), compiled(falling, "stages.tune.epochs=8"))
    (change,) = found["tune[seed=0,learning_rate=0.001,epoch=2]"].changes
    assert str(change).startswith("epochs 6 -> 8 (the schedule falls over all epochs")
    assert str(change).endswith("--set stages.tune.epochs:1")
    constant = causes(remembered(compiled(STUDY)), compiled(STUDY, "stages.tune.epochs=8"))
    assert not any(id_.startswith("tune") for id_ in constant)
