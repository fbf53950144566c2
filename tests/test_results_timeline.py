"""The timeline of a report: bars, gaps that are cut out, and the critical path."""

from __future__ import annotations

import pytest

from runtime.results.jobs import Job
from runtime.results.timeline import WIDTH, critical_path, timeline_of

HOUR = 3600.0
# (job, what it needs, start and duration in hours): c waits long after b, as a night passes.
STUDY = (
    ("data", (), 0.0, 1.0),
    ("a[1]", ("data",), 1.0, 2.0),
    ("a[2]", ("data",), 1.0, 4.0),
    ("b", ("a[1]",), 3.0, 3.0),
    ("c", ("a[2]", "b"), 30.0, 2.0),
    ("old", (), -1000.0, 1.0),
)


def jobs(*told: tuple[str, tuple[str, ...], float, float]) -> dict[str, Job]:
    return {
        name: Job(
            name, name.partition("[")[0], "sft", "k", "", needs, "done",
            manifest={"resources": {"used": {"started": start * HOUR, "wall_s": took * HOUR}}},
        )
        for name, needs, start, took in told
    }  # fmt: skip


def test_the_critical_path_is_the_chain_that_takes_longest() -> None:
    assert [job.id for job in critical_path(jobs(*STUDY))] == ["data", "a[1]", "b", "c"]
    chain = [(f"j{i}", (f"j{i - 1}",) if i else (), 0.0, 1.0) for i in range(5000)]
    assert len(critical_path(jobs(*chain))) == 5000


def test_bars_stand_where_jobs_ran_and_idle_times_are_cut_out() -> None:
    found = timeline_of(jobs(*STUDY), 100)
    assert found is not None
    assert found.busy_s == 9 * HOUR and found.critical_s == 8 * HOUR
    assert [lane.stage for lane in found.lanes] == ["old", "data", "a", "b", "c"]
    bars = {bar.job.id: bar for lane in found.lanes for bar in lane.bars}
    hour = WIDTH * 0.97 / 9  # two gaps of 1.5 %
    assert bars["old"].x == 0
    assert bars["data"].x == pytest.approx(hour + 15, abs=0.1)
    assert bars["b"].x - bars["a[1]"].x == pytest.approx(2 * hour, abs=0.2)
    assert bars["c"].x + bars["c"].width == pytest.approx(WIDTH, abs=0.2)
    assert {name for name, bar in bars.items() if bar.critical} == {"data", "a[1]", "b", "c"}
    assert len(found.gaps) == 2


def test_of_many_jobs_the_longest_are_drawn_and_the_critical_path() -> None:
    found = timeline_of(jobs(*STUDY), 1)
    assert found is not None
    assert {b.job.id for lane in found.lanes for b in lane.bars} == {"data", "a[1]", "b", "c", "a[2]"}


def test_many_gaps_leave_room_for_bars() -> None:
    found = timeline_of(jobs(*((f"j{i}", (), 10.0 * i, 1.0) for i in range(400))), 1000)
    assert found is not None
    last = found.lanes[-1].bars[0]
    assert last.x + last.width <= WIDTH + 2
    assert sum(b.width for lane in found.lanes for b in lane.bars) >= WIDTH / 2


def test_nothing_to_draw() -> None:
    assert timeline_of({}, 10) is None
    assert timeline_of(jobs(STUDY[0]), 10) is None
