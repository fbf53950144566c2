"""Claims: their verdicts, how often those are wrong, their places in a spec, and what is printed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.output.describe import describe_tables
from runtime.results.claim_words import claims_csv, claims_markdown, claims_text
from runtime.results.claims import Difference, Verdict, decide
from runtime.results.everything import load_results
from runtime.results.write import write_results
from runtime.store import Store
from tests.compiler.specs import STUDY, compile_text
from tests.golden import check_golden
from tests.results_world import study

AHEAD, CLOSE, LEVEL, BEHIND = 5.0, 1.9, 0.0, -5.0  # with an error of 1: 5, 1.9 and 0 errors from zero


def at(*means: float | None, error: float = 1.0) -> list[Difference]:
    return [Difference(f"p{i}", m, None if m is None else error, missing="") for i, m in enumerate(means)]


@pytest.mark.parametrize(
    ("means", "of", "margin", "verdict"),
    [
        ((AHEAD,), "every", 0, "holds"),
        ((AHEAD, AHEAD), "every", 0, "holds"),
        ((AHEAD, CLOSE), "every", 0, "cannot tell"),
        ((AHEAD, CLOSE), "every", 1, "holds"),
        ((AHEAD, LEVEL), "every", 2.5, "holds"),  # may be behind by less than 2.5
        ((AHEAD, AHEAD), "every", -6, "cannot tell"),  # asks for a lead of more than 6
        ((AHEAD, AHEAD), "every", -8, "does not hold"),
        ((AHEAD, BEHIND), "every", 0, "does not hold"),
        ((AHEAD, -2.1), "every", 0, "cannot tell"),  # p = 0.018 of two places
        ((-2.1,), "every", 0, "does not hold"),  # p = 0.018 of one
        ((AHEAD, None), "every", 0, "cannot tell"),
        ((BEHIND, None), "every", 0, "does not hold"),
        ((None,), "every", 0, "cannot tell"),
        ((AHEAD, BEHIND), "some", 0, "holds"),
        ((AHEAD, None), "some", 0, "holds"),
        ((2.1, BEHIND), "some", 0, "cannot tell"),
        ((BEHIND, BEHIND), "some", 0, "does not hold"),
        ((BEHIND, None), "some", 0, "cannot tell"),
        ((BEHIND, LEVEL), "some", 1, "cannot tell"),
        ((BEHIND, LEVEL), "some", -2.5, "does not hold"),
    ],
)
def test_verdicts(means: tuple[float | None, ...], of: str, margin: float, verdict: Verdict) -> None:
    assert decide(at(*means), margin, every=of == "every", level=0.95) == verdict


def test_equal_sides_without_any_error_are_neither_ahead_nor_behind() -> None:
    same = at(0.0, error=0.0)
    assert decide(same, 0, every=True, level=0.95) == "cannot tell"
    assert decide(same, 0.1, every=True, level=0.95) == "holds"
    assert decide(same, -0.1, every=True, level=0.95) == "does not hold"


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("places", [1, 6])
def test_a_verdict_is_rarely_wrong_where_the_truth_is_on_the_border(every: bool, places: int) -> None:
    """All differences are 0, the border of the claim: either verdict would come from noise alone."""
    draw = random.Random(0)
    told = [
        decide(at(*(draw.gauss(0, 1) for _ in range(places))), 0, every=every, level=0.95)
        for _ in range(4000)
    ]
    for verdict in ("holds", "does not hold"):
        assert told.count(verdict) / len(told) < 0.025 + 0.0075  # three standard errors


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=5), st.floats(-3, 3))
def test_a_wider_margin_never_hurts_a_claim(means: list[float], margin: float) -> None:
    rank = ["does not hold", "cannot tell", "holds"]
    for every in (True, False):
        verdicts = [decide(at(*means), m, every=every, level=0.95) for m in (margin, margin + 1)]
        assert rank.index(verdicts[0]) <= rank.index(verdicts[1])


# ---------------------------------------------------------------- in a study

CLAIMS = [
    {
        "name": "feedback", "says": "RLAIF beats SFT on a tenth | for each <base>", "table": "fig3",
        "better": "RLAIF", "than": "SFT 10%",
        "pairs": [{"label": b, "a": [b, "RLAIF"], "b": [b, "SFT 10%"]} for b in ("yi-6b", "mistral-7b")],
    },
    {
        "name": "all", "table": "fig3", "better": "SFT 100%", "than": "RLAIF", "margin": 20.0, "of": "some",
        "pairs": [
            {"label": b, "a": [b, "SFT 100%"], "b": [b, "RLAIF"]} for b in ("llama-7b", "yi-6b")
        ],
    },
]  # fmt: skip


def test_what_is_printed_and_written(tmp_path: Path) -> None:
    world = study(Store(tmp_path / "store"))
    world.claims += CLAIMS
    world.tables[0]["published"] += [
        {"row": "yi-6b", "column": "SFT 10%", "value": 50.0, "standard_error": 1.7, "source": "fig3.csv"},
        {"row": "llama-7b", "column": "SFT 100%", "value": 51.0, "source": "fig3.csv"},
    ]
    claims = load_results(world.store, world.description()).claims
    check_golden("claims/text.txt", claims_text(claims))
    check_golden("claims/claims.md", claims_markdown(claims))
    check_golden("claims/claims.csv", claims_csv(claims))
    written = write_results(world.store, world.description(), tmp_path / "out")
    assert {"claims.md", "claims.csv"} <= {path.name for path in written}
    report = (tmp_path / "out/report.html").read_text()
    assert "RLAIF beats SFT on a tenth | for each &lt;base&gt;: holds" in report


# ---------------------------------------------------------------- in a spec

ROWS = """
claims:
  helps: {table: main, better: SFT + feedback, than: SFT, margin: 2, of: some}
"""
COLUMNS = """
  seeds: {rows: seed, columns: {A: sft_test.accuracy, B: rlaif_test.accuracy, long: sft_test.avg_length}}
claims:
  ahead: {says: B is better, table: seeds, better: B, than: A, where: [1], level: 0.9}
"""


def test_a_claim_on_rows_speaks_of_every_column_that_can_be_paired(tmp_path: Path) -> None:
    (told,) = describe_tables(compile_text(tmp_path, STUDY + ROWS))["claims"]
    assert told["pairs"] == [
        {"label": name, "a": ("SFT + feedback", name), "b": ("SFT", name)}
        for name in ("win_rate", "accuracy")
    ]
    assert (told["margin"], told["of"], told["level"]) == (2.0, "some", 0.95)


def test_a_claim_on_columns_speaks_of_the_rows_it_names(tmp_path: Path) -> None:
    (told,) = describe_tables(compile_text(tmp_path, STUDY.rstrip() + COLUMNS))["claims"]
    assert told["pairs"] == [{"label": "1", "a": ("1", "B"), "b": ("1", "A")}]
    assert told["says"] == "B is better"
