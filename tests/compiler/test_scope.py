"""`include: {file: ..., as: ...}`: specs under a name of their own, and choices that can be made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import SpecError
from compiler.frontend.scope import renamed
from compiler.frontend.source import load, parse
from compiler.program import Program, compile_spec
from tests.compiler.specs import STUDY


def under(name: str, text: str) -> object:
    tree, problems = parse(text, "f")
    assert tree is not None and not problems
    return renamed(tree, name).plain()


# What stands in a spec -> what stands there under the name `n`.
RENAMED = {
    "a stage and its reader": (
        "stages: {a: {kind: prepare, source: tasks}, b: {kind: demonstrate, prompts: a.sft, teacher: weak}}",
        {
            "n-a": {"kind": "prepare", "source": "tasks"},
            "n-b": {"kind": "demonstrate", "prompts": "n-a.sft", "teacher": "weak"},
        },
    ),
    "words that name no stage here": (
        "stages: {tokenizer: {kind: sft, chat: tokenizer, model: tiny, data: x.y}}",
        {"n-tokenizer": {"kind": "sft", "chat": "tokenizer", "model": "tiny", "data": "x.y"}},
    ),
    "shorthand, sweeps and axes": (
        "axes: {s: [0]}\nstages: {m: {kind: sft, sweep: {data: [m, o], epochs: ['${s}']}}, "
        "e: {kind: evaluate, model: m, seed: '${s}'}, "
        "c: {kind: select, from: m, by: {stage: e.accuracy, at: {s: '${s}', rate: 1}}, over: [s, rate]}}",
        {
            "n-m": {"kind": "sft", "sweep": {"data": ["n-m", "o"], "epochs": ["${n-s}"]}},
            "n-e": {"kind": "evaluate", "model": "n-m", "seed": "${n-s}"},
            "n-c": {
                "kind": "select",
                "from": "n-m",
                "by": {"stage": "n-e.accuracy", "at": {"n-s": "${n-s}", "rate": 1}},
                "over": ["n-s", "rate"],
            },
        },
    ),
    "names made of an axis": (
        "axes: {w: [a]}\n"
        "stages: {a_x: {kind: prepare, source: '${w}'}, b: {prompts: '${w}_x.sft', data: '${w}_z'}}",
        {
            "n-a_x": {"kind": "prepare", "source": "${n-w}"},
            "n-b": {"prompts": "n-${n-w}_x.sft", "data": "${n-w}_z"},
        },
    ),
}


@pytest.mark.parametrize("what", RENAMED)
def test_what_speaks_of_a_stage_or_an_axis_is_renamed_with_it(what: str) -> None:
    text, expected = RENAMED[what]
    found = under("n", text)
    assert isinstance(found, dict) and found["stages"] == expected


def test_fields_of_an_axis_that_name_stages_are_renamed_but_not_those_read_as_words() -> None:
    text = (
        "axes: {v: {one: {on: p.val, word: p}}}\n"
        "stages: {p: {kind: prepare, source: tasks}, "
        "e: {kind: evaluate, prompts: '${v.on}', template: '${v.word}'}}"
    )
    found = under("n", text)
    assert isinstance(found, dict) and found["axes"] == {"n-v": {"one": {"on": "n-p.val", "word": "p"}}}


def test_tables_keep_their_labels() -> None:
    text = (
        "axes: {s: [0]}\nstages: {a: {kind: evaluate}}\ntables:\n"
        "  t: {rows: s, columns: [a.win_rate], over: [s, q], compare: {a.win_rate: a.win_rate}}\n"
        "  u: {rows: {A: a}, columns: {W: win_rate}}\n"
    )
    found = under("n", text)
    assert isinstance(found, dict) and found["tables"] == {
        "n-t": {
            "rows": "n-s",
            "columns": {"a.win_rate": "n-a.win_rate"},
            "over": ["n-s", "q"],
            "compare": {"a.win_rate": "a.win_rate"},
        },
        "n-u": {"rows": {"A": "n-a"}, "columns": {"W": "win_rate"}},
    }


def test_what_is_no_spec_stays_for_later_passes_to_tell() -> None:
    text = (
        "axes: {s: 1}\nstages: {a: 2, b: {kind: [], data: {at: 3}}}\n"
        "tables: {t: {rows: 4, columns: 5}, u: 6}\nclaims: {c: {table: []}}"
    )
    found = under("n", text)
    assert isinstance(found, dict)
    assert found["tables"] == {"n-t": {"rows": 4, "columns": 5}, "n-u": 6}
    assert found["stages"] == {"n-a": 2, "n-b": {"kind": [], "data": {"at": 3}}}


def compiled(folder: Path, text: str, *overrides: str) -> Program:
    (folder / "study.yaml").write_text(STUDY)
    (folder / "spec.yaml").write_text(f"experiment: x\ninclude: {text}")
    return compile_spec(str(folder / "spec.yaml"), overrides)


def test_two_copies_of_a_study_are_the_same_work(tmp_path: Path) -> None:
    alone = compiled(tmp_path, "[study.yaml]")
    twice = compiled(tmp_path, "[{file: study.yaml, as: one}, {file: study.yaml, as: two}]")
    assert sorted(twice.keys) == sorted([*alone.keys, *alone.keys])
    assert [table.name for table in twice.tables] == ["one-main", "two-main"]
    changed = compiled(tmp_path, "[{file: study.yaml, as: one}]", "stages.one-rlaif.epochs=4")
    assert len(set(changed.keys) - set(alone.keys)) == 2 * 3  # dpo, its samples and its score, for two seeds


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("{as: one}", "AC104"),
        ("{file: study.yaml, name: one}", "AC104"),
        ("{file: study.yaml, as: 'a b'}", "AC106"),
    ],
)
def test_a_wrong_entry_is_told(entry: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        compiled(tmp_path, f"[{entry}]")
    assert code in {problem.code for problem in caught.value.diagnostics}


def test_a_choice_from_an_axis_can_be_made_anew() -> None:
    files = {
        "lib.yaml": "axes: {base: {a: {n: 1}, b: {n: 2}, c: {n: 3}}}",
        "fig.yaml": "include: [lib.yaml]\naxes: {base: [a]}",
        "all.yaml": "include: [{file: fig.yaml, as: fig}]\naxes: {fig-base: [c]}",
    }
    source, problems = load("fig.yaml", ["axes.base=[b, a]"], files.__getitem__)
    assert not problems and source.tree.items["axes"].plain() == {"base": {"b": {"n": 2}, "a": {"n": 1}}}
    source, problems = load("all.yaml", [], files.__getitem__)
    assert not problems and source.tree.items["axes"].plain() == {"fig-base": {"c": {"n": 3}}}
    _, problems = load("all.yaml", ["axes.fig-base=[d]"], files.__getitem__)
    assert [problem.code for problem in problems] == ["AC210"]
