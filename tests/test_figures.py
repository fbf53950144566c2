"""Forms of figures: stacked bars, lines over an axis, short axes; as data, and the words in a drawing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from runtime.results import bars, scaling
from runtime.results.description import BarsSpec, FigureSpec, LinesSpec
from runtime.results.figure import draw
from runtime.results.metrics import metric_of
from runtime.results.style import Scale, for_dark_pages, scale_of
from runtime.results.table import Cell, Column, Member, Published, Row, Table

RATE = metric_of("win_rate")


def cell(value: float | None, *, key: str = "k", seeds: int = 1, published: float | None = None) -> Cell:
    """A number with an interval of 3 to each side; None: a failed job."""
    status = "done" if value is not None else "failed"
    members = tuple(
        Member("n", "evaluate", f"{key}{seed}", "win_rate", value=value, status=status, missing=status)
        for seed in range(seeds)
    )
    paper = None if published is None else Published(published, 1.5)
    if value is None:
        return Cell(members, published=paper)
    return Cell(members, value, 1.5, None, 800, (value - 3, value + 3), paper)


def table(columns: Sequence[str], rows: dict[str, Sequence[Cell]], figure: FigureSpec) -> Table:
    return Table(
        "t", "", "base", tuple(Column(label, RATE) for label in columns),
        tuple(Row(label, tuple(cells)) for label, cells in rows.items()), ("seed",), (), figure,
    )  # fmt: skip


def words(table: Table) -> list[str]:
    """What stands in the drawing: SVG keeps each text as a comment."""
    return re.findall("<!-- (.*?) -->", draw(table, "svg").decode(), re.S)


# ---------------------------------------------------------------- stacked bars


@pytest.mark.parametrize(
    ("beneath", "upper", "filled", "lost"),
    [
        (40.0, 60.0, [(0.0, 40.0), (40.0, 60.0)], None),  # the increment stands on its base
        (60.0, 40.0, [(0.0, 40.0), (40.0, 40.0)], (40.0, 60.0)),  # a decrement: the base loses its end
        (50.0, 50.0, [(0.0, 50.0), (50.0, 50.0)], None),
        (-2.0, -1.0, [(0.0, -1.0), (-1.0, -1.0)], (-1.0, -2.0)),
        (-2.0, 3.0, [(0.0, 0.0), (0.0, 3.0)], (0.0, -2.0)),
        (40.0, None, [(0.0, 40.0), (0.0, 0.0)], None),
        (None, 60.0, [(0.0, 0.0), (0.0, 60.0)], None),  # its whole height, since the base is not known
    ],
)
def test_a_stack_shows_both_values(
    beneath: float | None,
    upper: float | None,
    filled: list[tuple[float, float]],
    lost: tuple[float, float] | None,
) -> None:
    stacked = table(["SFT", "+ feedback"], {"a": [cell(beneath), cell(upper)]}, BarsSpec(stack=((1, 0),)))
    ((sft, feedback),) = (panel.bars for panel in bars.panels(stacked))
    assert [sft.filled, feedback.filled] == filled
    assert (sft.lost, feedback.lost) == (None, lost)
    assert sft.x == feedback.x and sft.lane[0] < feedback.lane[0]  # their intervals stand side by side
    assert sft.colour != feedback.colour
    assert ("lost by + feedback" in words(stacked)) == (lost is not None)


def paper(**told: Any) -> Table:
    columns = ["SFT 100 %", "SFT 10 %", "+ AI feedback", "Strong"]
    rows = {
        "up": [cell(56, published=57), cell(42, published=43), cell(48, seeds=2), cell(68)],
        "down": [cell(58), cell(55), cell(None), cell(70)],
    }
    return table(columns, rows, BarsSpec(stack=((2, 1),), hatched=(3,), **told))


def test_columns_that_share_a_bar_take_one_place() -> None:
    (panel,) = bars.panels(paper())
    assert [round(bar.x, 2) for bar in panel.bars[:4]] == [-0.27, 0.0, 0.0, 0.27]
    assert [bar.hatched for bar in panel.bars[:4]] == [False, False, False, True]


def test_a_drawing_says_what_it_shows() -> None:
    said = words(paper(y_from=35.0))
    assert "Win rate (%), axis from 35" in said and "failed" in said
    assert {"56.0", "48.0", "68.0"} < set(said) and "42.0" not in said  # one number for each whole bar
    assert {"SFT 10 %", "+ AI feedback", "one seed", "published"} < set(said)
    assert "Win rate (%)" in words(paper())


@pytest.mark.parametrize(
    ("values", "told", "scale"),
    [
        ([40, 60], {}, Scale(0, 60, 66)),
        ([40, 60], {"y_from": 35}, Scale(35, 60, 62.5)),
        ([33, 60], {"y_from": 35}, Scale(30, 60, 63)),  # nothing is hidden
        ([-2, 60], {"y_from": 35}, Scale(-2, 60, 66)),
        ([40, 60], {"y_to": 100}, Scale(0, 60, 100)),
        ([40, 60], {"y_to": 50}, Scale(0, 60, 66)),
        ([40, 60], {"dashed_y": 80}, Scale(0, 80, 88)),
        ([], {"y_from": 35}, Scale(35, 100, 106.5)),
        ([], {}, Scale(0, 100, 110)),
    ],
)
def test_the_y_axis(values: list[float], told: dict[str, float], scale: Scale) -> None:
    found = scale_of(values, BarsSpec(**told), RATE)  # type: ignore[arg-type]
    assert (found.low, found.top, found.end) == pytest.approx((scale.low, scale.top, scale.end))


# ---------------------------------------------------------------- lines


def shares(columns: Sequence[str] = ("SFT", "Untrained"), **told: Any) -> Table:
    """Two judges, three shares of the data in no order; the base model is one number for each judge."""
    rows, places = {}, []
    for judge, start in (("gpt-4", 2.0), ("claude", 7.0)):
        for share in (0.5, 0.1, 1.0):
            value = None if (judge, share) == ("claude", 0.5) else 40 + start * share
            cells = [cell(value, key=f"{judge}{share}", published=44), cell(start, key=judge)]
            rows[f"{judge}, {share}"] = cells
            places.append({"line": judge, "x": share})
    spec = LinesSpec.model_validate({"rows": places, "x_title": "share", **told})
    return table(columns, rows, spec)


def test_lines_over_an_axis() -> None:
    (panel,) = scaling.panels(shares(at=[(1, 0.0)], x_percent=True))
    assert panel.ticks == ((0.0, "0\nUntrained"), (0.1, "10"), (0.5, "50"), (1.0, "100"))
    assert [(line.label, [(x, c.value) for x, c in line.points]) for line in panel.lines] == [
        ("gpt-4", [(0.0, 2.0), (0.1, 40.2), (0.5, 41.0), (1.0, 42.0)]),
        ("claude", [(0.0, 7.0), (0.1, 40.7), (0.5, None), (1.0, 47.0)]),
    ]
    assert (
        len({line.colour for line in panel.lines}) == len({line.look["marker"] for line in panel.lines}) == 2
    )


def test_a_column_with_one_value_for_all_of_x_is_a_line_across() -> None:
    (panel,) = scaling.panels(shares())
    assert [(line.label, line.flat) for line in panel.lines] == [
        ("gpt-4: SFT", False),
        ("claude: SFT", False),
        ("gpt-4: Untrained", True),
        ("claude: Untrained", True),
    ]


def test_an_even_scale_sets_numbers_in_order_and_names_as_they_come() -> None:
    (panel,) = scaling.panels(shares(at=[(1, 0.0)], scale="even", dashed_x=0.1))
    assert [place for place, _ in panel.ticks] == [0.0, 1.0, 2.0, 3.0] and panel.dashed == 1.0
    cells = [[cell(1.0, key="a")], [cell(2.0, key="b")]]
    named = LinesSpec.model_validate(
        {"rows": [{"line": "", "x": "small"}, {"line": "", "x": "large"}], "scale": "even"}
    )
    (panel,) = scaling.panels(table(["SFT"], {"small": cells[0], "large": cells[1]}, named))
    assert panel.ticks == ((0.0, "small"), (1.0, "large"))


def test_a_drawing_of_lines_says_where_something_is_missing() -> None:
    said = words(shares(at=[(1, 0.0)], dashed_x=0.1, x_percent=True))
    assert {"claude: failed", "share (%)", "gpt-4", "claude", "published", "Win rate (%)"} < set(said)


# ---------------------------------------------------------------- all


def test_each_form_gives_the_same_bytes_each_time() -> None:
    for each in (paper(y_from=35), shares(scale="log"), shares(at=[(1, 0.0)])):
        assert draw(each) == draw(each)


def test_a_dark_page_darkens_what_stands_on_top() -> None:
    light = draw(paper()).decode()
    upper = bars.panels(paper())[0].bars[2].colour
    dark = for_dark_pages(light.encode()).decode()
    assert f"fill: {upper}" in light and f'[style*="fill: {upper}"]{{fill:#' in dark
    plain = draw(table(["SFT"], {"a": [cell(1.0)]}, BarsSpec()))
    assert upper not in for_dark_pages(plain).decode()


def test_signs_of_formulas_in_labels_are_text() -> None:
    assert "a $5 and $x_{" in words(
        table(["a"], {"a $5 and $x_{": [cell(1.0)], "b": [cell(2.0)]}, BarsSpec())
    )
