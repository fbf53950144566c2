"""Tables from sealed scores: means, errors, seeds, missing cells, comparisons and their words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runtime.claims import try_claim
from runtime.results import load_tables, render_text
from runtime.results.documents import latex, markdown
from runtime.results.metrics import metric_of
from runtime.results.table import Cell, Comparison, Member, Published, Table
from runtime.results.words import cell_text, findings, missing_notes, notes, number
from runtime.store import Store
from tests.results_world import World, key_of, study, table


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def _scored(world: World, id: str, wins: list[float | None], seed: int = 0) -> str:
    world.node(id, "evaluate", seed=seed)
    world.seal_scores(id, wins)
    return id


def _one_cell(world: World, *ids: str, metric: str = "win_rate", over: tuple[str, ...] = ("seed",)) -> Cell:
    world.tables = [table("t", {"A": metric}, {"r": [world.cell(*ids, field=metric)]}, over=over)]
    (loaded,) = load_tables(world.store, world.description())
    return loaded.rows[0].cells[0]


# ---------------------------------------------------------------- numbers


def test_one_seed_gives_the_evaluations_own_figures(world: World) -> None:
    cell = _one_cell(world, _scored(world, "a", [1.0, 1.0, 0.0, 0.5]))
    assert cell.value == 62.5
    assert cell.standard_error == pytest.approx(23.935677693908453)
    assert (cell.spread, cell.n_prompts, cell.n_seeds, cell.missing) == (None, 4, 1, ())


def test_seeds_are_averaged_prompt_by_prompt_before_the_error_is_taken(world: World) -> None:
    """Four prompts, two seeds: the error is that of (100, 50, 50, 0), not that of eight answers."""
    a = _scored(world, "a[seed=0]", [1.0, 1.0, 0.0, 0.0], seed=0)
    b = _scored(world, "a[seed=1]", [1.0, 0.0, 1.0, 0.0], seed=1)
    cell = _one_cell(world, a, b)
    assert cell.value == 50.0
    assert cell.standard_error == pytest.approx(100 * math.sqrt(0.5 / 3 / 4))
    assert cell.spread == 0.0
    assert cell.per_seed == (50.0, 50.0)
    assert cell.n_prompts == 4
    assert cell.interval == (0.0, 100.0)  # 3.18 errors to each side leave the range of a rate


def test_the_interval_is_students(world: World) -> None:
    cell = _one_cell(world, _scored(world, "a", [1.0, 0.0, 0.5]), metric="avg_length")
    assert (cell.value, cell.standard_error) == (41.0, pytest.approx(3**-0.5))
    half = 4.302652729749464 * 3**-0.5  # two degrees of freedom
    assert cell.interval == pytest.approx((41 - half, 41 + half))


def test_seeds_that_agree_on_every_prompt_do_not_shrink_the_error(world: World) -> None:
    wins: list[float | None] = [1.0, 0.0, 1.0, 1.0, 0.0]
    alone = _one_cell(world, _scored(world, "a[seed=0]", wins))
    ids = ["a[seed=0]", *(_scored(world, f"a[seed={s}]", wins, seed=s) for s in (1, 2, 3))]
    assert _one_cell(world, *ids).standard_error == pytest.approx(alone.standard_error)


def test_spread_between_seeds_is_their_standard_deviation(world: World) -> None:
    ids = [
        _scored(world, f"a[seed={s}]", [1.0] * k + [0.0] * (10 - k), seed=s) for s, k in enumerate((4, 5, 6))
    ]
    cell = _one_cell(world, *ids)
    assert (cell.value, cell.spread) == (50.0, 10.0)
    assert cell_text(cell, metric_of("win_rate"), ("seed",)) == "50.0 ± 15.1 [10.0]"


def test_prompts_without_a_verdict_count_nowhere(world: World) -> None:
    cell = _one_cell(world, _scored(world, "a", [1.0, None, 0.0, None]))
    assert (cell.value, cell.n_prompts) == (50.0, 2)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("win_rate", 62.5, "62.5 ± 23.9"),
        ("discrete_win_rate", 62.5, "62.5 ± 23.9"),
        ("avg_length", 41.0, "41 ± 1"),
        ("n_wins", 2.0, "2"),
    ],
)
def test_metrics(world: World, metric: str, value: float, text: str) -> None:
    cell = _one_cell(world, _scored(world, "a", [1.0, 1.0, 0.0, 0.5]), metric=metric)
    assert cell.value == value
    assert cell_text(cell, metric_of(metric), ()) == text


def test_a_field_that_nobody_knows_is_a_number_without_an_error(world: World) -> None:
    world.node("a", "reward")
    world.seal("a", metrics={"mean_kl": 3.25})
    cell = _one_cell(world, "a", metric="mean_kl")
    assert cell_text(cell, metric_of("mean_kl"), ()) == "3.25"


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(57.46, 1, "57.5"), (-3.04, 1, "−3.0"), (-0.01, 1, "0.0"), (0.0, 0, "0"), (-0.5, 2, "−0.50")],
)
def test_number(value: float, decimals: int, text: str) -> None:
    assert number(value, decimals) == text


# ---------------------------------------------------------------- what is missing


def test_a_cell_with_some_seeds_missing_has_no_mean(world: World) -> None:
    first = _scored(world, "a[seed=0]", [1.0, 0.0], seed=0)
    second = world.node("a[seed=1]", "evaluate", seed=1)
    cell = _one_cell(world, first, second)
    assert (cell.value, cell.standard_error, cell.spread) == (None, None, None)
    assert (cell.n_seeds, cell.n_expected, cell.per_seed) == (1, 2, (50.0, None))
    assert cell_text(cell, metric_of("win_rate"), ("seed",)) == "1 of 2 seeds"
    assert cell_text(cell, metric_of("win_rate"), ("seed", "order")) == "1 of 2 runs"


def _reason(world: World, id: str, metric: str = "win_rate") -> tuple[str, str]:
    (member,) = _one_cell(world, id, metric=metric).missing
    return member.status, member.missing


def test_reason_not_run(world: World) -> None:
    world.node("up", "sample")
    assert _reason(world, world.node("a", "evaluate", ["up"])) == ("not run", "not run")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("failed", "failed"),
        ("refused", "failed"),
        ("interrupted", "stopped"),
        ("warned", "stopped"),
        ("blocked", "blocked"),
    ],
)
def test_reason_of_a_failure_is_the_first_line_of_its_message(
    world: World, outcome: str, status: str
) -> None:
    world.node("a", "evaluate")
    world.fail("a", outcome, "no completions\nsecond line")
    assert _reason(world, "a") == (status, f"{status}: no completions")


def test_reason_blocked_names_the_job_that_failed_however_far(world: World) -> None:
    world.node("train", "sft")
    world.fail("train", "failed", "boom")
    world.node("sample", "sample", ["train"])
    world.node("a", "evaluate", ["sample"])
    assert _reason(world, "a") == ("blocked", "blocked by train (failed: boom)")


def test_reason_running_while_a_live_process_holds_the_claim(world: World) -> None:
    world.node("a", "evaluate")
    world.fail("a", "failed", "an earlier try")
    claim = try_claim(world.store.claim_folder(key_of("a")))
    assert claim is not None
    try:
        assert _reason(world, "a") == ("running", "running")
    finally:
        claim.release()
    assert _reason(world, "a") == ("failed", "failed: an earlier try")


def test_reason_damaged(world: World) -> None:
    _scored(world, "a", [1.0, 0.0])
    (world.store.artifact("evaluate", key_of("a")) / "items.jsonl").write_text("{}\n")
    status, text = _reason(world, "a")
    assert status == "damaged"
    assert "items.jsonl" in text and str(world.store.root) not in text


def test_reason_damaged_manifest(world: World) -> None:
    _scored(world, "a", [1.0, 0.0])
    (world.store.artifact("evaluate", key_of("a")) / "manifest.json").write_text("{")
    assert _reason(world, "a")[0] == "damaged"


def test_reason_no_such_field_or_not_a_number(world: World) -> None:
    _scored(world, "a", [None, None])
    assert _reason(world, "a") == ("no value", "no value: win_rate is not a finite number")
    assert _reason(world, "a", "accuracy") == ("no value", "no value: its scores have no accuracy")


def test_a_cell_that_the_experiment_does_not_have(world: World) -> None:
    world.tables = [table("t", {"A": "win_rate", "B": "win_rate"}, {"r": [None, {"members": []}]})]
    (loaded,) = load_tables(world.store, world.description())
    assert [cell_text(cell, metric_of("win_rate"), ()) for cell in loaded.rows[0].cells] == ["–", "–"]
    assert missing_notes(loaded) == []


def test_an_empty_store_gives_whole_tables(store: Store) -> None:
    told = study(store).description()
    (loaded, _) = load_tables(Store(store.root / "elsewhere"), told)
    assert all(cell.value is None for row in loaded.rows for cell in row.cells)
    assert missing_notes(loaded) == ["12 numbers: not run (all 3 seeds)"]


# ---------------------------------------------------------------- comparisons


def _compared(world: World, a: list[float | None], b: list[float | None], field: str = "win_rate") -> Table:
    _scored(world, "a", a)
    _scored(world, "b", b)
    comparison = {
        "label": "RLAIF - SFT", "row": "yi-6b", "column": "", "field": field,
        "a": [world.member("a", field)], "b": [world.member("b", field)],
    }  # fmt: skip
    world.tables = [table("t", {"A": field}, {"r": [world.cell("a", field=field)]}, comparisons=[comparison])]
    (loaded,) = load_tables(world.store, world.description())
    return loaded


def _told(table: Table) -> tuple[str, str]:
    (finding,) = findings(table)
    return finding.verdict, finding.text


def test_the_better_side_is_named(world: World) -> None:
    wins: list[float | None] = [1.0, 1.0, 1.0, 0.0] * 25
    worse: list[float | None] = [1.0, 0.0, 1.0, 0.0] * 25
    found = _compared(world, wins, worse)
    text = "beats {} by 25.0 points (95% interval 16.4 to 33.6), 1 run, 100 prompts."
    assert _told(found) == ("a", "yi-6b: RLAIF " + text.format("SFT"))


def test_the_other_side_may_be_the_better_one(world: World) -> None:
    found = _compared(world, [1.0, 0.0, 1.0, 0.0] * 25, [1.0, 1.0, 1.0, 0.0] * 25)
    text = "yi-6b: SFT beats RLAIF by 25.0 points (95% interval 16.4 to 33.6), 1 run, 100 prompts."
    assert _told(found) == ("b", text)


def test_what_cannot_be_told_apart_is_said_so(world: World) -> None:
    found = _compared(world, [1.0, 0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0])
    verdict, text = _told(found)
    assert verdict == "unclear"
    assert text.startswith("yi-6b: cannot tell RLAIF and SFT apart: difference 0.0 points (95% interval −")


def test_longer_is_not_better(world: World) -> None:
    _, text = _told(_compared(world, [1.0] * 5, [0.0] * 5, field="avg_length"))
    difference = "difference 0 characters (95% interval 0 to 0)"
    assert text == f"yi-6b: cannot tell RLAIF and SFT apart: {difference}, 1 run, 5 prompts."


def test_a_bound_near_zero_keeps_its_digits(world: World) -> None:
    told = Comparison("r", "", "A - B", "A", "B", metric_of("win_rate"), (), (), 3.0, 1.5, 0.02, 5.98, 400)
    found = Table("t", "", "", (), (), ("seed",), (told,))
    assert "(95% interval 0.02 to 5.98)" in _told(found)[1]


def test_a_comparison_waits_for_all_its_seeds(world: World) -> None:
    found = _compared(world, [1.0, 0.0], [1.0, 0.0])
    assert found.comparisons[0].n_prompts == 2
    told = world.description()
    told["tables"][0]["comparisons"][0]["a"].append(world.member(world.node("c", "evaluate", seed=1)))
    told["tables"][0]["over"] = ["seed"]
    (found,) = load_tables(world.store, told)
    assert _told(found) == ("missing", "yi-6b: RLAIF against SFT is not known yet: RLAIF (seed 1): not run.")


@pytest.mark.parametrize(
    ("wins", "low", "high"),
    [
        ([0.0] * 40, 0.0, 8.7622),  # Wilson: forty failures do not show that there can be no success
        ([1.0] * 40, 91.2378, 100.0),
        ([1.0] + [0.0] * 19, 0.0, 15.4651),
        ([1.0, 0.0] * 50, 40.0289, 59.9711),
    ],
)
def test_intervals_of_rates_stay_within_their_range(
    world: World, wins: list[float | None], low: float, high: float
) -> None:
    assert _one_cell(world, _scored(world, "a", wins)).interval == pytest.approx((low, high), abs=1e-4)


def test_no_common_prompts(world: World) -> None:
    found = _compared(world, [1.0, None], [None, 0.0])
    assert _told(found)[1].endswith("not known yet: fewer than two prompts have a score on both sides.")


def test_labels_of_the_sides_may_be_given(world: World) -> None:
    _compared(world, [1.0, 0.0], [1.0, 0.0])
    told = world.description()
    told["tables"][0]["comparisons"][0] |= {"label": "x - y - z", "a_label": "x - y", "b_label": "z"}
    (found,) = load_tables(world.store, told)
    assert (found.comparisons[0].a_label, found.comparisons[0].b_label) == ("x - y", "z")


# ---------------------------------------------------------------- description, published values, text


def test_a_description_that_is_none_is_refused(store: Store) -> None:
    for broken in ({"schema": "alignc.tables/2", "experiment": "x"}, {"schema": "alignc.tables/1"}, {}):
        with pytest.raises(ValidationError):
            load_tables(store, broken)


def test_rows_must_fit_the_columns(world: World) -> None:
    world.tables = [table("t", {"A": "win_rate", "B": "win_rate"}, {"r": [None]})]
    with pytest.raises(ValidationError, match="has 1 cells for 2 columns"):
        load_tables(world.store, world.description())


def test_what_a_newer_compiler_adds_is_passed_over(store: Store) -> None:
    told = {"schema": "alignc.tables/1", "experiment": "x", "new": 1}
    assert load_tables(store, json.loads(json.dumps(told))) == []


def test_published_values_stand_beside_ours(world: World) -> None:
    _scored(world, "a", [1.0, 0.0])
    printed: list[dict[str, Any]] = [
        {"row": "r", "column": "A", "value": 47.625, "standard_error": 1.77, "source": "fig3.csv"},
        {"row": "s", "column": "A", "value": 40.0, "standard_error": None, "source": "fig3.csv"},
    ]
    world.tables = [table("t", {"A": "win_rate"}, {"r": [world.cell("a")], "s": [None]}, published=printed)]
    (found,) = load_tables(world.store, world.description())
    assert found.rows[0].cells[0].published == Published(47.625, 1.77, "fig3.csv")
    assert found.rows[1].cells[0].members == ()
    assert notes(found)[-1] == "Published: fig3.csv."
    assert render_text(found, terminal=False) == (
        "t\n"
        "\n"
        "             A  A (published)\n"
        "-  -----------  -------------\n"
        "r  50.0 ± 50.0     47.6 ± 1.8\n"
        "s            –           40.0\n"
        "\n"
        "Win rate in %; ± one standard error over prompts; one run each, so variation between training runs "
        "is not in the error; 2 prompts.\n"
        "Published: fig3.csv.\n"
    )


def test_text_for_a_terminal_is_coloured_and_fits_its_width(store: Store) -> None:
    (found, _) = load_tables(store, study(store).description())
    text = render_text(found, terminal=True, width=110)
    assert "\x1b[" in text and "2 of 3 seeds" in text
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())) <= 110
    assert "\x1b" not in render_text(found, terminal=False)


def test_members_keep_the_way_back(world: World) -> None:
    _scored(world, "a", [1.0, 0.0])
    (member,) = _one_cell(world, "a").members
    assert isinstance(member, Member)
    assert (member.node, member.key, member.place) == ("a", key_of("a"), "specs/study.yaml:1")


# ---------------------------------------------------------------- bold


@pytest.mark.parametrize(
    ("wins", "best"),
    [
        # Shares of 100 prompts that each of three stages wins, and which is set in bold.
        ((30, 50, 90), 2),
        ((90, 50, 30), 0),
        ((30, 87, 90), None),  # three prompts more: the interval reaches 0
        ((30, 30, 30), None),
        ((90, None, 30), None),  # the missing one might be ahead
        ((90, 30), 0),
        ((90,), None),
    ],
)
def test_bold_is_what_its_interval_puts_ahead_of_all_others(
    tmp_path: Path, wins: Sequence[int | None], best: int | None
) -> None:
    world = World(Store(tmp_path))
    rows = {}
    for index, won in enumerate(wins):
        node = world.node(f"s{index}", "evaluate")
        if won is not None:
            world.seal_scores(node, [float(i < won) for i in range(100)])
        rows[f"r{index}"] = [world.cell(node), world.cell(node, field="avg_length")]
    world.tables.append(table("t", {"win": "win_rate", "length": "avg_length"}, rows))
    (found,) = load_tables(world.store, world.description())
    marked = [i for i, row in enumerate(found.rows) if row.cells[0].best]
    assert marked == ([] if best is None else [best])
    assert not any(row.cells[1].best for row in found.rows)  # longer is not better


def test_where_rows_are_bases_the_best_of_each_row_is_bold(tmp_path: Path) -> None:
    world = World(Store(tmp_path))
    cells = []
    for name, won in (("weak", 20), ("strong", 80)):
        world.seal_scores(world.node(name, "evaluate"), [float(i < won) for i in range(100)])
        cells.append(world.cell(name))
    columns = {"Weak": "win_rate", "Strong": "win_rate"}
    world.tables.append(table("t", columns, {"llama": cells}, row_header="base"))
    (found,) = load_tables(world.store, world.description())
    assert [cell.best for cell in found.rows[0].cells] == [False, True]
    assert "**80.0" in markdown(found) and r"\textbf{80.0" in latex(found)
    assert "80.0 ± 4.0*" in render_text(found, terminal=False)
    assert "ahead of every other of its row" in markdown(found)
