"""`select`: the best of several candidates by a score; a choice made when the scores exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from runtime.artifacts import Port
from runtime.fields import Reference, nothing, result, takes
from runtime.job import Job
from runtime.stage import Problem, Resources, StageConfig, StageKind


class Select(StageConfig):
    """Reduces the axes that sweeps and checkpoints added; the result stands for the chosen candidate."""

    candidates: Reference = takes("Model", "RewardModel", "Completions", "Preferences", many=True,
                                  alias="from", doc="what to choose from (written `from`)")
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
    return {"": replace(inputs["candidates"], path="choice.json", epochs=())}


def check(config: Select, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    if config.protocol == "validation" and any(p.role == "test" for p in inputs["by"].pools):
        yield Problem(
            "AC332", "by", "the choice would be made on the test set",
            "score on a validation split, or say `protocol: test` as the lineage did",
        )


def run(job: Job) -> None:
    raise NotImplementedError


STAGE = StageKind(
    name="select", version=1, config=Select, outputs=outputs, run=run, check=check, resources=Resources(minutes=5)
)
