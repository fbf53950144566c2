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


# ---------------------------------------------------------------- figures

SHARES = """
experiment: shares
models: {tiny: {init: {}}}
llms: {weak: {provider: simulated}, judge: {provider: simulated}}
sources: {tasks: {kind: world}, others: {kind: world, seed: 1}}
axes: {share: {"0.1": {take: 10%}, "0.5": {take: 50%}}, critic: [weak, judge]}
stages:
  prompts: {kind: prepare, source: tasks, split: {sft: "${share.take}", test: rest}}
  exam: {kind: prepare, source: others, split: {test: rest}}
  answers: {kind: demonstrate, prompts: prompts.sft, teacher: weak}
  reference: {kind: demonstrate, prompts: exam.test, teacher: weak}
  tuned: {kind: sft, model: tiny, data: answers, chat: human_assistant, epochs: 1, learning_rate: 1e-3}
  score: &score
    {kind: evaluate, model: tuned, prompts: exam.test, evaluator: "${critic}", reference: reference}
  plain: {<<: *score, model: tiny, chat: human_assistant}
tables:
  t:
    rows: [critic, share]
    columns: {SFT: score.win_rate, Plain: plain.win_rate, Length: score.avg_length}
    figure: FIGURE
"""


def figure_of(tmp_path: Path, figure: str, text: str = SHARES) -> dict | None:
    (table,) = describe_tables(compile_text(tmp_path, text.replace("FIGURE", figure)))["tables"]
    return table.get("figure")


def test_a_figure_of_bars(tmp_path: Path) -> None:
    told = figure_of(tmp_path, "{form: bars, stack: {SFT: Plain}, hatched: [Length], y_from: 35}")
    assert told == {
        "form": "bars", "y_from": 35.0, "y_to": None, "dashed_y": None, "stack": [(0, 1)], "hatched": [2],
    }  # fmt: skip


def test_a_figure_of_lines(tmp_path: Path) -> None:
    told = figure_of(tmp_path, "{form: lines, at: {Plain: 0}, dashed_x: 0.1, x_percent: true}")
    assert told == {
        "form": "lines", "y_from": 0.0, "y_to": None, "dashed_y": None,
        "rows": [
            {"line": "weak", "x": 0.1}, {"line": "weak", "x": 0.5},
            {"line": "judge", "x": 0.1}, {"line": "judge", "x": 0.5},
        ],
        "x_title": "share", "x_percent": True, "scale": "linear", "at": [(1, 0.0)], "dashed_x": 0.1,
    }  # fmt: skip
    told = figure_of(tmp_path, "{form: lines, x: critic, scale: even}")
    assert told and told["rows"][0] == {"line": "0.1", "x": "weak"}


def test_a_figure_follows_its_axis_to_another_name(tmp_path: Path) -> None:
    (tmp_path / "shares.yaml").write_text(SHARES.replace("FIGURE", "{form: lines, x: share}"))
    outer = "experiment: outer\ninclude: [{file: shares.yaml, as: in}]\n"
    told = figure_of(tmp_path, "", outer)
    assert told and told["x_title"] == "in-share"


def test_a_figure_enters_no_key(tmp_path: Path) -> None:
    plain = compile_text(tmp_path, SHARES.replace("    figure: FIGURE\n", ""))
    drawn = compile_text(tmp_path, SHARES.replace("FIGURE", "{form: lines, x_title: share, y_to: 100}"))
    assert plain.keys == drawn.keys


@pytest.mark.parametrize(
    ("figure", "code", "words"),
    [
        ("{form: bar}", "AC103", "did you mean `bars`"),
        ("{stack: {SFT: Plain}}", "AC102", "`t` needs `form`"),
        ("bars", "AC103", "a mapping is needed"),
        ("{form: bars, stak: {}}", "AC101", "did you mean `stack`"),
        ("{form: lines, stack: {}}", "AC101", "known: "),
        (
            "{form: bars, y_from: 50, y_to: 40}",
            "AC103",
            "`figure.y_to` of table `t`: it must lie above `y_from`",
        ),
        ("{form: bars, hatched: [SFTT]}", "AC402", "did you mean `SFT`"),
        ("{form: bars, stack: {Lenght: SFT}}", "AC402", "did you mean `Length`"),
        ("{form: bars, stack: {Length: SFT}}", "AC404", "`avg_length` and `win_rate` cannot be stacked"),
        ("{form: bars, stack: {SFT: SFT}}", "AC404", "a bar has two parts"),
        ("{form: lines, x: shares}", "AC402", "did you mean `share`"),
        ("{form: lines, x: critic}", "AC404", "`weak` of `critic` is no number"),
        ("{form: lines, at: {Plane: 0}}", "AC402", "did you mean `Plain`"),
        ("{form: lines, at: {SFT: 0}}", "AC404", "`SFT` differs along x"),
        ("{form: lines, at: {Plain: 0}, scale: log}", "AC404", "0 has no place on a logarithmic scale"),
        ("{form: lines, dashed_x: 0.2, scale: even}", "AC404", "0.2 has no place on this axis"),
    ],
)
def test_bad_figures(tmp_path: Path, figure: str, code: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        figure_of(tmp_path, figure)
    assert {d.code for d in caught.value.diagnostics} == {code}
    assert words in str(caught.value) and "figure:" in str(caught.value)  # the line it stands in


def test_lines_need_rows_of_an_axis_and_two_points(tmp_path: Path) -> None:
    by_stage = SHARES.partition("tables:")[0] + (
        "tables: {t: {rows: {Plain: plain}, columns: [win_rate], over: [critic], figure: {form: lines}}}"
    )
    lonely = SHARES.replace(', "0.5": {take: 50%}', "").replace("FIGURE", "{form: lines}")
    for text, words in ((by_stage, "rows that are stages"), (lonely, "the line of `weak` would have one")):
        with pytest.raises(SpecError, match=words):
            compile_text(tmp_path, text)
