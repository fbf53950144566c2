"""Tables: rows from axes or stages, what stands behind each cell, published numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import SpecError
from compiler.output.describe import describe_tables
from tests.compiler.specs import STUDY, compile_text

BY_AXIS = (
    STUDY.partition("tables:")[0]
    + """
tables:
  t: {rows: seed, columns: {SFT: sft_test.win_rate, RLAIF: rlaif_test.win_rate}, compare: {RLAIF: SFT}}
"""
)


def members(cell: dict) -> list[str]:
    return [m["node"] for m in cell["members"]]


def test_stages_as_rows(tmp_path: Path) -> None:
    (table,) = describe_tables(compile_text(tmp_path, STUDY))["tables"]
    assert [c["label"] for c in table["columns"]] == ["win_rate", "accuracy"]
    assert [r["label"] for r in table["rows"]] == ["SFT", "SFT + feedback"]
    assert members(table["rows"][0]["cells"][0]) == ["sft_test[seed=0]", "sft_test[seed=1]"]
    assert [(c["label"], c["column"], c["field"]) for c in table["comparisons"]] == [
        ("SFT + feedback - SFT", "win_rate", "win_rate"),
        ("SFT + feedback - SFT", "accuracy", "accuracy"),
    ]


def test_an_axis_as_rows(tmp_path: Path) -> None:
    (table,) = describe_tables(compile_text(tmp_path, BY_AXIS))["tables"]
    assert table["row_header"] == "seed"
    assert [(r["label"], [members(c) for c in r["cells"]]) for r in table["rows"]] == [
        ("0", [["sft_test[seed=0]"], ["rlaif_test[seed=0]"]]),
        ("1", [["sft_test[seed=1]"], ["rlaif_test[seed=1]"]]),
    ]
    assert [(c["label"], c["row"]) for c in table["comparisons"]] == [
        ("RLAIF - SFT", "0"),
        ("RLAIF - SFT", "1"),
    ]


def test_a_column_without_the_axis_of_the_rows_stands_in_every_row(tmp_path: Path) -> None:
    body = "{kind: evaluate, model: base, prompts: prompts.test, evaluator: critic, reference: reference}"
    score = f"  as_it_is: {body}\n"
    text = BY_AXIS.replace("tables:", score + "tables:").replace("{SFT:", "{Base: as_it_is.win_rate, SFT:")
    (table,) = describe_tables(compile_text(tmp_path, text))["tables"]
    assert [(r["label"], members(r["cells"][0]), members(r["cells"][1])) for r in table["rows"]] == [
        ("0", ["as_it_is"], ["sft_test[seed=0]"]),
        ("1", ["as_it_is"], ["sft_test[seed=1]"]),
    ]


def test_published_numbers(tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_text("seed,method,win_rate,standard_error\n0,sft,40.5,1.7\n1,dpo,50,\n")
    text = BY_AXIS.replace(
        "compare:",
        "published: {file: paper.csv, row: seed, columns: {SFT: {method: sft}, RLAIF: {method: dpo}}}, "
        "compare:",
    )
    (table,) = describe_tables(compile_text(tmp_path, text))["tables"]
    assert table["published"] == [
        {"row": "0", "column": "SFT", "value": 40.5, "standard_error": 1.7, "source": "paper.csv"},
        {"row": "1", "column": "RLAIF", "value": 50.0, "standard_error": None, "source": "paper.csv"},
    ]


@pytest.mark.parametrize(
    ("table", "code", "words"),
    [
        ("{rows: {SFT: sft_test}, columns: [win_rate]}", "AC401", "over: [seed]"),
        ("{rows: seed, columns: {S: score.accuracy}}", "AC401", "learning_rate"),
        ("{rows: base, columns: {SFT: sft_test.win_rate}}", "AC402", "no column varies over `base`"),
        ("{rows: {SFT: sft_test}, columns: [winrate], over: [seed]}", "AC402", "did you mean `win_rate`"),
        (
            "{rows: {SFT: best}, columns: [win_rate], over: [seed]}",
            "AC402",
            "only `evaluate` stages have scores",
        ),
        ("{rows: seed, columns: {A: sft_test.win_rate}, compare: {A: B}}", "AC402", "no `B` to compare"),
        ("{rows: seed, columns: {A: sfttest.win_rate}}", "AC301", "did you mean `sft_test`"),
        (
            "{rows: seed, columns: {A: sft_test.win_rate}, published: {file: no.csv, row: a, columns: {}}}",
            "AC403",
            "no.csv",
        ),
    ],
)
def test_bad_tables(tmp_path: Path, table: str, code: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_text(tmp_path, STUDY.partition("tables:")[0] + f"tables:\n  t: {table}\n")
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert words in str(caught.value)
