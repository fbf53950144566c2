"""`label`: a critic chooses between two completions of each prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from runtime.artifacts import Port
from runtime.fields import Frozen, Reference, result, takes
from runtime.job import Job
from runtime.stage import Problem, Resources, StageConfig, StageKind


class Judging(Frozen):
    """How a pair is shown to a judge and how the reply is read."""

    template: str = result("pairwise", doc="a template of templates/judge/, by name")
    order: Literal["coin", "fixed", "both"] = result(
        "coin",
        doc="`coin`: AlpacaEval's seeded coin on the instruction; `fixed`: as given; "
        "`both`: asked twice, and a tie where the verdicts contradict each other",
    )
    judge_temperature: float = result(0.0, doc="sampling temperature of the judge", ge=0)
    judge_max_tokens: int = result(50, doc="longest verdict in tokens", ge=1)
    coin_seed: int = result(0, doc="seed of the coin")


class Label(StageConfig, Judging):
    """Preferences of a critic; ties and unreadable replies are kept as verdicts, never as preferences."""

    critic: Reference = takes("LLM", doc="a declared llm")
    a: Reference = takes("Completions", doc="one completion of each prompt")
    b: Reference = takes("Completions", doc="another completion of the same prompts")


def outputs(config: Label, inputs: Mapping[str, Port]) -> dict[str, Port]:
    pools = inputs["a"].pools | inputs["b"].pools
    return {
        "": Port(type="Preferences", path="data.jsonl", pools=pools),
        "verdicts": Port(type="Verdicts", path="verdicts.jsonl", pools=pools),
    }


def check(config: Label, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    if not any(p.may_overlap(q) for p in inputs["a"].pools for q in inputs["b"].pools):
        yield Problem("AC330", "b", "`a` and `b` answer different prompts, so they make no pair")


def run(job: Job) -> None:
    raise NotImplementedError


STAGE = StageKind(
    name="label", version=1, config=Label, outputs=outputs, run=run, check=check, resources=Resources(minutes=480)
)
