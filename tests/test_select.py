"""`select`: the best candidate by its score, rules for ties and missing scores, choices of choices."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from runtime.files import read_json, write_json
from runtime.job import JobError
from runtime.run_job import Outcome, run_job
from runtime.stages.select import align, leaders, margin
from runtime.store import Store
from tests.support import describe, made, run


def test_leaders() -> None:
    assert leaders([1, 3, None, 3, 2], "max") == [1, 3]
    assert leaders([1, 3, None, 3, 1], "min") == [0, 4]
    assert leaders([None], "max") == []


def test_margin() -> None:
    assert margin([1, 4, None, 3], 1) == 1
    assert margin([4, 4], 0) == 0
    assert margin([4, None], 0) is None


def test_scores_are_aligned_by_axes_not_by_place() -> None:
    candidates = [{"lr": 1e-5, "epoch": 1}, {"lr": 1e-5, "epoch": 2}, {"lr": 2e-5, "epoch": 1}]
    scored = [({"epoch": 1, "lr": 2e-5}, 3.0), ({"epoch": 1, "lr": 1e-5}, 1.0), ({"epoch": 9, "lr": 1}, 9.0)]
    assert align(candidates, scored) == [1.0, None, 3.0]
    with pytest.raises(JobError, match="same axes"):
        align([{"lr": 1}], [({"lr": 1}, 1.0), ({"lr": 1}, 2.0)])
    with pytest.raises(JobError, match="same axes"):
        align([{"lr": 1}, {"lr": 1}], [])


class World:
    """Sealed candidates and scores by learning rate."""

    def __init__(self, store: Store, tmp_path: Path) -> None:
        self.store, self.tmp_path, self.count = store, tmp_path, 0

    def seal(self, kind: str, name: str, value: Any) -> dict[str, Any]:
        self.count += 1
        out, key = self.tmp_path / f"made{self.count}", f"{self.count:064x}"
        out.mkdir()
        write_json(out / name, value)
        self.store.seal(kind, key, out, {"kind": kind, "key": key})
        return {"stage": kind, "kind": kind, "key": key}

    def job(self, scores: list[dict[str, Any] | None], **config: Any) -> dict[str, Any]:
        """A `select` of as many candidates as scores; None: a candidate without one."""
        candidates = [
            made(self.seal("sft", "model.json", i), "Model", "model", lr=i) for i in range(len(scores))
        ]
        by = [
            made(self.seal("evaluate", "metrics.json", score), "Scores", "metrics.json", "win_rate", lr=i)
            for i, score in enumerate(scores)
            if score is not None
        ]
        return describe("select", config, {"candidates": candidates, "by": list(reversed(by))})

    def choice(self, scores: list[dict[str, Any] | None], **config: Any) -> dict[str, Any]:
        found: dict[str, Any] = read_json(run(self.store, self.job(scores, **config)) / "choice.json")
        return found

    def refusal(self, scores: list[dict[str, Any] | None], **config: Any) -> str:
        job = self.job(scores, **config)
        assert run_job(self.store, job) is Outcome.REFUSED
        message: str = read_json(self.store.failure(job["key"]))["message"]
        return message


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    return World(store, tmp_path)


def rates(*values: float) -> list[dict[str, Any] | None]:
    return [{"win_rate": value, "avg_length": 3} for value in values]


def test_best_candidate_is_chosen(world: World) -> None:
    found = world.choice(rates(40, 55, 52.5))
    assert found["index"] == 1 and found["axes"] == {"lr": 1} and found["metric"] == "win_rate"
    assert found["chosen"]["kind"] == "sft" and found["chosen"]["path"] == "model"
    assert found["margin"] == 2.5 and found["ties"] == []
    assert [c["score"] for c in found["candidates"]] == [40, 55, 52.5]
    assert [c["axes"]["lr"] for c in found["candidates"]] == [0, 1, 2]
    assert found["candidates"][1]["key"] == found["chosen"]["key"]
    assert world.choice(rates(40, 55, 52.5), mode="min")["index"] == 0


def test_ties_follow_the_rule(world: World) -> None:
    first, last = world.choice(rates(50, 60, 60, 60)), world.choice(rates(50, 60, 60, 60), ties="last")
    assert (first["index"], first["ties"], first["margin"]) == (1, [2, 3], 0)
    assert (last["index"], last["ties"]) == (3, [1, 2])
    message = world.refusal(rates(50, 60, 60), ties="error")
    assert "2 candidates share the best win_rate" in message and "lr=2  60" in message


@pytest.mark.parametrize(
    "lost", [None, {"win_rate": None}, {"win_rate": math.nan}, {"win_rate": "50"}, {"win_rate": True}, {}]
)
def test_missing_scores_follow_the_rule(world: World, lost: dict[str, Any] | None) -> None:
    message = world.refusal([*rates(40), lost, *rates(30)])
    assert "some candidates have no win_rate" in message and "lr=1  missing" in message
    found = world.choice([*rates(40), lost, *rates(30)], missing="skip")
    assert found["index"] == 0 and found["candidates"][1]["score"] is None


def test_no_score_at_all_is_refused(world: World) -> None:
    assert "no candidate has a win_rate" in world.refusal([None, {}], missing="skip")


def test_choice_stands_for_the_chosen_candidate(world: World) -> None:
    """A choice among choices leads to the model behind them."""
    first = world.job(rates(1, 2))
    run(world.store, first)
    inner = made(first, "Model", "choice.json", lr=0)
    other = made(world.seal("sft", "model.json", 9), "Model", "model", lr=1)
    by = [
        made(
            world.seal("evaluate", "metrics.json", {"win_rate": s}),
            "Scores",
            "metrics.json",
            "win_rate",
            lr=i,
        )
        for i, s in enumerate((7, 3))
    ]
    second = describe("select", {}, {"candidates": [inner, other], "by": by})
    found = read_json(run(world.store, second) / "choice.json")
    assert (
        found["chosen"] == read_json(world.store.artifact("select", first["key"]) / "choice.json")["chosen"]
    )
    assert found["chosen"]["kind"] == "sft"
    from runtime.job import open_job

    third = describe("select", {}, {"candidates": [made(second, "Model", "choice.json")], "by": by[:1]})
    opened = open_job(world.store, third)
    assert opened.input("candidates").path.name == "model"
