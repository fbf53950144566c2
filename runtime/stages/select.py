"""`select`: the best of several candidates by a score; a choice made when the scores exist."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from runtime.artifacts import Port
from runtime.fields import Reference, nothing, result, takes
from runtime.job import Input, Job
from runtime.stage import Problem, Resources, StageConfig, StageKind


class Select(StageConfig):
    """Reduces the axes that sweeps and checkpoints added; the result stands for the chosen candidate."""

    candidates: Reference = takes(
        "Model",
        "RewardModel",
        "Completions",
        "Preferences",
        many=True,
        alias="from",
        doc="what to choose from (written `from`)",
    )
    by: Reference = takes("Scores", many=True, doc="a metric with the same axes, as `stage.metric`")
    over: tuple[str, ...] | None = nothing(
        None, doc="axes to reduce; none: those that sweeps and checkpoints added"
    )
    mode: Literal["max", "min"] = result("max", doc="whether more or less is better")
    ties: Literal["first", "last", "error"] = result(
        "first", doc="equal scores: the first or last candidate in axis order, or no choice at all"
    )
    missing: Literal["error", "skip"] = result(
        "error", doc="a candidate whose score is absent or not a number: refuse to choose, or leave it out"
    )
    protocol: Literal["validation", "test"] = nothing(
        "validation", doc="`test` allows choosing on the test set, as the lineage did"
    )


def outputs(config: Select, inputs: Mapping[str, Port]) -> dict[str, Port]:
    candidates, scores = inputs["candidates"], inputs["by"]
    # Who chooses on the test set and says so is not told again wherever that set is used.
    chosen = scores.pools if config.protocol == "validation" else frozenset()
    return {"": replace(candidates, path="choice.json", chosen=candidates.chosen | chosen)}


def check(config: Select, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    if config.protocol == "validation" and any(p.role == "test" for p in inputs["by"].pools):
        yield Problem(
            "AC332",
            "by",
            "the choice would be made on the test set",
            "score on a validation split, or say `protocol: test` as the lineage did",
        )
    if any(p.may_overlap(q) for p in inputs["by"].pools for q in inputs["candidates"].seen):
        hint = "score on a split that no training stage reads"
        yield Problem(
            "AC333", "by", "the candidates were trained on the prompts that choose between them", hint
        )


def run(job: Job) -> None:
    from runtime.files import write_json
    from runtime.job import CHOICE, JobError

    config: Select = job.config
    candidates, scorings = job.inputs["candidates"], job.inputs["by"]
    scores = align([c.axes for c in candidates], [(s.axes, _score(s)) for s in scorings])
    metric = scorings[0].metric
    if config.missing == "error" and None in scores:
        raise JobError(
            f"some candidates have no {metric}\n{_table(candidates, scores)}\n"
            "Score them all, or leave them out with `missing: skip`."
        )
    best = leaders(scores, config.mode)
    if not best:
        raise JobError(f"no candidate has a {metric}\n{_table(candidates, scores)}")
    if len(best) > 1 and config.ties == "error":
        raise JobError(
            f"{len(best)} candidates share the best {metric}\n{_table(candidates, scores)}\n"
            "Say which to take with `ties: first` or `ties: last`."
        )
    index = best[-1 if config.ties == "last" else 0]
    records = job.description["inputs"]["candidates"]
    choice = {
        "chosen": {name: records[index][name] for name in ("kind", "key", "path")},
        "index": index,
        "axes": dict(candidates[index].axes),
        "metric": metric,
        "margin": margin(scores, index),
        "ties": [other for other in best if other != index],
        "candidates": [
            {"axes": dict(c.axes), "key": r["key"], "score": score}
            for c, r, score in zip(candidates, records, scores, strict=True)
        ],
    }
    write_json(job.out / CHOICE, choice)
    job.report(**{name: choice[name] for name in ("axes", "metric", "margin", "ties")}, score=scores[index])


def align(
    candidates: Sequence[Mapping[str, Any]], scored: Sequence[tuple[Mapping[str, Any], float | None]]
) -> list[float | None]:
    """The score of each candidate: the one with the same axes; None where there is none.

    Raises JobError where two scores, or two candidates, have the same axes.
    """
    from runtime.files import canonical
    from runtime.job import JobError

    by_axes = {canonical(dict(axes)): score for axes, score in scored}
    names = [canonical(dict(axes)) for axes in candidates]
    if len(by_axes) < len(scored) or len(set(names)) < len(names):
        raise JobError("two candidates or two scores have the same axes, so they cannot be told apart")
    return [by_axes.get(name) for name in names]


def leaders(scores: Sequence[float | None], mode: Literal["max", "min"]) -> list[int]:
    """Indices of the candidates that share the best score."""
    known = [score for score in scores if score is not None]
    if not known:
        return []
    best = max(known) if mode == "max" else min(known)
    return [index for index, score in enumerate(scores) if score == best]


def margin(scores: Sequence[float | None], index: int) -> float | None:
    """How much better the chosen one is than the next best; None where it has no rival."""
    chosen = scores[index] or 0.0
    rivals = [score for other, score in enumerate(scores) if other != index and score is not None]
    return min((abs(chosen - score) for score in rivals), default=None)


def _score(scoring: Input) -> float | None:
    """The metric in a Scores artifact; None where it is absent or no finite number."""
    from runtime.files import read_json

    found = read_json(scoring.path).get(scoring.metric)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        return None
    return float(found)


def _table(candidates: Sequence[Input], scores: Sequence[float | None]) -> str:
    """The candidates and their scores, one a line."""

    def words(axes: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}={value}" for name, value in axes.items()) or "(no axes)"

    told = ["missing" if score is None else f"{score:g}" for score in scores]
    lines = [(words(c.axes), score) for c, score in zip(candidates, told, strict=True)]
    width = max(len(axes) for axes, _ in lines)
    return "\n".join(f"  {axes:<{width}}  {score}" for axes, score in lines)


STAGE = StageKind(
    name="select",
    version=1,
    config=Select,
    outputs=outputs,
    run=run,
    check=check,
    resources=Resources(minutes=5),
)
