"""Reading specs: YAML 1.2 scalars, places, includes, overrides."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from compiler.errors import Diagnostic, SpecError
from compiler.frontend.source import load, parse


def read(files: dict[str, str], *overrides: str):
    def read_text(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    return load("a.yaml", overrides, read_text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("22:30:00", "22:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("0o17", 15),
        ("007", 7),
        (".inf", math.inf),
        ("'3'", "3"),
        ("10%", "10%"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    tree, problems = parse(f"x: {text}", "f")
    assert not problems and tree is not None
    assert tree.items["x"].value == value
    assert type(tree.items["x"].value) is type(value)


def test_every_value_knows_its_place() -> None:
    tree, _ = parse("a:\n  - b\n  - {c: dd}\n", "f")
    assert tree is not None
    inner = tree.items["a"].elements[1].items["c"]
    assert (inner.span.line, inner.span.column, inner.span.end) == (3, 9, 11)
    assert inner.key is not None and inner.key.column == 6


def test_included_files_lie_under_the_including_one() -> None:
    source, problems = read(
        {
            "a.yaml": "include: [lib/b.yaml]\nexperiment: a\nstages: {x: {epochs: 2}}",
            "lib/b.yaml": "include: c.yaml\nexperiment: b\nstages: {x: {kind: sft, epochs: 1}}",
            "lib/c.yaml": "models: {m: {hub: x}}",
        }
    )
    assert not problems
    assert source.tree.plain() == {
        "models": {"m": {"hub": "x"}},
        "stages": {"x": {"kind": "sft", "epochs": 2}},
        "experiment": "a",
    }


def test_the_including_file_settles_what_included_ones_define_differently() -> None:
    files = {"b.yaml": "axes: {s: [1]}", "c.yaml": "axes: {s: [2]}"}
    source, problems = read({"a.yaml": "include: [b.yaml, c.yaml]\naxes: {s: [3]}", **files})
    assert not problems and source.tree.items["axes"].plain() == {"s": [3]}


def test_merge_keys_bring_in_what_is_not_named() -> None:
    text = (
        "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {y: 5, <<: [*a, *b]}\nd: {<<: *a, <<: *b}\ne: {'<<': 1}"
    )
    tree, problems = parse(text, "f")
    assert tree is not None and not problems
    assert tree.items["c"].plain() == {"x": 1, "y": 5, "z": 4}
    assert tree.items["d"].plain() == {"x": 1, "y": 2, "z": 4}
    assert tree.items["e"].plain() == {"<<": 1}
    merged = tree.items["c"].items["z"].span
    assert merged.line == 2 and [(word, place.line) for word, place in merged.notes] == [("merged at", 3)]


def test_notes_tell_what_a_value_overrides_and_through_which_files_it_came() -> None:
    files = {
        "a.yaml": "include: b.yaml\nstages: {x: {epochs: 2}}",
        "b.yaml": "include: c.yaml",
        "c.yaml": "stages:\n  x: {kind: sft, epochs: 1}",
    }
    source, _ = read(files, "stages.x.epochs=3")
    stage = source.tree.items["stages"].items["x"]
    found = Diagnostic("AC103", "", stage.items["epochs"].span)
    assert [f"{word} {place}" for word, place in found.related] == [
        "overrides a.yaml:2:22",
        "overrides c.yaml:2:26",
        "included from b.yaml:1:10",
        "included from a.yaml:1:10",
    ]
    # An override reaches through the mapping; the stage itself stands where it stood.
    assert str(stage.place) == "a.yaml:2:10"
    assert [f"{word} {place}" for word, place in stage.place.notes] == ["extends c.yaml:2:3"]


def test_a_list_over_an_axis_of_records_chooses_from_them() -> None:
    source, _ = read(
        {
            "a.yaml": "include: b.yaml\naxes: {base: [c, a]}",
            "b.yaml": "axes: {base: {a: {n: 1}, b: {n: 2}, c: {n: 3}}}",
        }
    )
    assert list(source.tree.items["axes"].items["base"].plain().items()) == [("c", {"n": 3}), ("a", {"n": 1})]


def test_overrides_reach_deep_and_are_read_as_yaml() -> None:
    source, problems = read(
        {"a.yaml": "stages: {x: {kind: sft, seed: 1}}"}, "stages.x.seed=[1, 2]", "axes.k=[1e-5]"
    )
    assert not problems
    assert source.tree.plain() == {"stages": {"x": {"kind": "sft", "seed": [1, 2]}}, "axes": {"k": [1e-5]}}
    assert source.tree.items["axes"].items["k"].span.file == "--set axes.k"


@pytest.mark.parametrize(
    ("files", "overrides", "code"),
    [
        ({}, [], "AC001"),
        ({"a.yaml": "a: [1"}, [], "AC002"),
        ({"a.yaml": "a: 1\na: 2"}, [], "AC003"),
        ({"a.yaml": "include: a.yaml"}, [], "AC004"),
        (
            {"a.yaml": "include: [b.yaml, c.yaml]", "b.yaml": "axes: {s: [1]}", "c.yaml": "axes: {s: [2]}"},
            [],
            "AC005",
        ),
        (
            {"a.yaml": "include: b.yaml\naxes: {s: [c, x]}", "b.yaml": "axes: {s: {c: {}, d: {}}}"},
            [],
            "AC210",
        ),
        (
            {f"{a}.yaml": f"include: [{', '.join([f'{b}.yaml'] * 9)}]" for a, b in pairwise("abcdefgh")},
            [],
            "AC004",
        ),
        ({"a.yaml": "a: 1"}, ["a"], "AC006"),
        ({"a.yaml": "a: 1"}, [""], "AC006"),
        ({"a.yaml": "a: {b: 1}"}, ["a.b.c=2"], "AC006"),
        ({"a.yaml": "a: {<<: 1}"}, [], "AC007"),
        ({"a.yaml": "a: &x {<<: *x}"}, [], "AC007"),
        ({"a.yaml": "a: [1]"}, ["a.b=2"], "AC006"),
        ({"a.yaml": "? [1]\n: 2"}, [], "AC007"),
        ({"a.yaml": "a: &x {b: *x}"}, [], "AC007"),
        ({"a.yaml": "a: !!python/object:os.system x"}, [], "AC007"),
        ({"a.yaml": "- 1"}, [], "AC104"),
    ],
)
def test_bad_texts(files: dict[str, str], overrides: list[str], code: str) -> None:
    try:
        _, problems = read(files, *overrides)
    except SpecError as error:
        problems = list(error.diagnostics)
    assert code in {p.code for p in problems}


def test_aliases_of_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    _, problems = parse("\n".join(lines), "f")
    assert [p.code for p in problems] == ["AC007"]
