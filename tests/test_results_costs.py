"""What jobs have cost beside what was estimated: kept before they begin, not learned from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runtime.files import read_json
from runtime.results.costs import STAGES, Costs, costs_of, shown
from runtime.results.jobs import Job
from tests.commands import alignc
from tests.specs import LIGHT

HOUR = 3600.0
FREE = [0, 0, 0]


def job(
    id_: str, kind: str, estimated: dict[str, Any] | None = None, *, hours: float = 1.0, gpus: int = 0,
    key: str = "", config: dict[str, Any] | None = None, experiment: str = "mine", **more: Any,
) -> Job:  # fmt: skip
    """A job on two cores that is done; `estimated` as its description told it, `more` of its manifest."""
    resources = {"asked": {"gpus": gpus, "cpus": 2}, "used": {"wall_s": hours * HOUR}}
    manifest = {
        "experiment": experiment,
        "config": config or {},
        "resources": {**resources, **({"estimated": estimated} if estimated else {})},
        **more,
    }
    return Job(id_, id_.partition("[")[0], kind, key or id_, "", (), "done", "", manifest)


def paid(usd: float | None) -> dict[str, Any]:
    return {"dollars": usd, "requests": 100}


def rows(costs: Costs) -> list[tuple[str, str, dict[str, str], str]]:
    """The table, a row a line: label, made and reused, estimates by what was spent, how many were right."""
    lines = (*costs.lines, costs.whole)
    return [(n.label, f"{len(n.made)}+{len(n.before)}", dict(n.told), n.inside) for n in lines]


def test_spent_stands_beside_estimated() -> None:
    tune = {"gpu_hours": [2, 3, 5], "cpu_hours": [1, 2, 3], "usd": FREE}
    label = {"gpu_hours": FREE, "cpu_hours": [0.01, 0.03, 0.05], "usd": [3, 3.5, 4.5]}
    jobs = [
        job("tune[seed=0]", "sft", tune, gpus=4),
        job("tune[seed=1]", "sft", tune, gpus=4, hours=1.5),
        job("same", "sft", tune, gpus=4, key="tune[seed=0]"),
        job("old", "sft", gpus=2),
        job("label", "label", label, hours=0.01, summary=paid(4.0)),
        job(
            "prepare", "prepare", {"gpu_hours": FREE, "cpu_hours": [0.1, 0.2, 0.3], "usd": FREE}, hours=0.001
        ),
        job("wide", "sft", {"unknown": "its rows are not known"}, config={"parallel": {"processes": 3}}),
    ]
    assert rows(costs_of(jobs, "mine")) == [
        ("tune", "2+0", {"10 GPU-hours": "6 (4–10)"}, "1 of 2"),
        ("old", "1+0", {"2 GPU-hours": "no estimate"}, ""),
        ("label", "1+0", {
            "0.02 CPU-hours": "0.03 (0.01–0.05)",
            "4.00 dollars": "3.50 (3.00–4.50)",
        }, "1 of 1"),
        ("prepare", "1+0", {"0.002 CPU-hours": "0.2 (0.1–0.3)"}, "0 of 1"),
        ("wide", "1+0", {"6 CPU-hours": "no estimate"}, ""),
        ("all", "6+0", {
            "12 GPU-hours": "6 (4–10) for 10 GPU-hours",
            "6.02 CPU-hours": "0.23 (0.11–0.35) for 0.022 CPU-hours",
            "4.00 dollars": "3.50 (3.00–4.50)",
        }, "2 of 4"),
    ]  # fmt: skip


def test_what_others_made_cost_nothing_here() -> None:
    jobs = [
        job("mine", "sample", {"gpu_hours": [1, 2, 3]}, gpus=2, hours=0.75),
        job("theirs", "sample", {"gpu_hours": [3, 3, 3]}, gpus=3, experiment="another", summary=paid(2.0)),
        job("brought", "sft", hours=0.0, adopted={"path": "x"}),
    ]
    costs = costs_of(jobs, "mine")
    mine = {"1.5 GPU-hours": "2 (1–3)"}
    assert rows(costs) == [
        ("mine", "1+0", mine, "1 of 1"),
        ("theirs", "0+1", {}, ""),
        ("brought", "0+1", {}, ""),
        ("all", "1+2", mine, "1 of 1"),
    ]
    assert costs.reused == "2 jobs, which had cost 3 GPU-hours, 2.00 dollars"
    assert costs.text == "spent: 1.5 GPU-hours of an estimated 2 (1–3); 1 of 1 jobs as estimated"


def test_what_nobody_knew_is_no_zero() -> None:
    """A price that nobody knows, and one that is known by now."""
    estimated = {"cpu_hours": [1, 2, 3], "usd": None}
    unknown = job("a", "label", estimated, summary=paid(None))
    assert costs_of([unknown], "mine").text == (
        "spent: 2 CPU-hours of an estimated 2 (1–3), unknown dollars (no estimate); 1 of 1 jobs as estimated"
    )
    known = job("b", "label", estimated, summary=paid(0.004))
    assert "at least <0.01 dollars (no estimate)" in costs_of([unknown, known], "mine").text


def test_a_line_for_each_kind_where_stages_are_many() -> None:
    jobs = [job(f"stage{n}", "sft" if n % 2 else "dpo") for n in range(STAGES + 1)]
    costs = costs_of(jobs, "mine")
    assert (costs.by, [(n.label, len(n.made)) for n in costs.lines]) == ("kind", [("dpo", 7), ("sft", 6)])


def test_nothing_is_told_of_nothing() -> None:
    waiting = Job("a", "a", "sft", "k", "", (), "not run")
    assert (costs_of([waiting], "mine").lines, costs_of([waiting], "mine").text) == ((), "")


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("cpu_hours", 0, "0"),
        ("cpu_hours", 0.0004, "<0.001"),
        ("gpu_hours", 12.345, "12.3"),
        ("gpu_hours", 12_345.6, "12,346"),
        ("usd", 0.001, "<0.01"),
        ("usd", 12.345, "12.35"),
    ],
)
def test_amounts(unit: Any, value: float, text: str) -> None:
    assert shown(unit, value) == text


# ---------------------------------------------------------------- kept


def manifests(store: Path) -> dict[str, dict[str, Any]]:
    """By key."""
    told = (read_json(path) for path in store.glob("[!.]*/*/manifest.json"))
    return {manifest["key"]: manifest for manifest in told}


def test_an_estimate_is_kept_from_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    (tmp_path / "other.yaml").write_text(LIGHT.replace("experiment: light", "experiment: other"))
    planned = json.loads(alignc("plan", "light.yaml", "--format", "json", cwd=tmp_path, errors=False))
    told = alignc("run", "light.yaml", "--store", "s", cwd=tmp_path)
    assert "\nspent: " in told and " CPU-hours of an estimated 0.00" in told
    first = manifests(tmp_path / "s")
    names = ("gpu_hours", "cpu_hours", "usd")
    assert {m["id"]: m["resources"]["estimated"] for m in first.values()} == {
        node["id"]: {name: node["cost"][name] for name in names} for node in planned["nodes"]
    }
    # What was made is history for the next estimates, and changes none that was kept.
    changed = ("other.yaml", "--store", "s", "--set", "stages.wrong.max_tokens=99")
    alignc("run", *changed, cwd=tmp_path)
    then = manifests(tmp_path / "s")
    assert {key: then[key] for key in first} == first and len(then) == 8 + 6
    score = [m["resources"]["estimated"] for m in then.values() if m["id"] == "score[seed=0]"]
    assert len(score) == 2 and score[0] != score[1]
    alignc("results", *changed, cwd=tmp_path)
    page = (tmp_path / "results/other/report.html").read_text()
    assert re.search(r"Reused: 2 jobs, which had cost \S+ CPU-hours; here they cost nothing.", page)
