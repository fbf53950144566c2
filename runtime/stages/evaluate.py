"""`evaluate`: scores a model's completions: win rate against a reference, exact-match accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runtime.artifacts import Port
from runtime.fields import Reference, takes
from runtime.job import Job
from runtime.stage import Problem, Resources, StageConfig, StageKind
from runtime.stages.label import Judging
from runtime.stages.sample import Sampling

WIN_RATE = ("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate")
ACCURACY = ("accuracy", "accuracy_se")
ALWAYS = ("avg_length",)


class Evaluate(StageConfig, Judging):
    """Scores of completions. `model` and `prompts` are short for a `sample` stage made on the spot.

    Win rates are AlpacaEval's: mean of the preference for the model, ties one half, standard error
    with ddof 1; in percent.
    """

    completions: Reference = takes("Completions", doc="what to score")
    prompts: Reference | None = takes("Prompts", doc="the prompts, with true answers or reference completions",
                                      default=None)
    reference: Reference | None = takes("Completions", doc="what to compare with; none: the completions of `prompts`",
                                        default=None)
    evaluator: Reference | None = takes("LLM", doc="judge of the win rate; none: accuracy only", default=None)


def _versus(inputs: Mapping[str, Port]) -> Port | None:
    """The port of the reference completions, where there are any."""
    prompts = inputs.get("prompts")
    return inputs.get("reference") or (prompts if prompts and prompts.type == "Demonstrations" else None)


def outputs(config: Evaluate, inputs: Mapping[str, Port]) -> dict[str, Port]:
    metrics = ALWAYS
    if "evaluator" in inputs and _versus(inputs):
        metrics = WIN_RATE + metrics
    if inputs["completions"].answers:
        metrics = ACCURACY + metrics
    return {"": Port(type="Scores", path="metrics.json", metrics=metrics, pools=inputs["completions"].pools)}


def check(config: Evaluate, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    if "evaluator" in inputs and not _versus(inputs):
        yield Problem("AC331", "evaluator", "there is nothing to compare with", "name a `reference`")
    done = inputs["completions"]
    if any(p.may_overlap(q) for p in done.pools for q in done.seen):
        yield Problem(
            "AC333", "prompts" if config.prompts else "completions",
            "the model was trained on these prompts", "evaluate on a split that no training stage reads",
        )


def expand(name: str, body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`model:` and the sampling fields become a stage of their own, so that no GPU waits for a judge."""
    if "model" not in body or "completions" in body:
        return {name: body}
    moved = {"model", "resources", *Sampling.model_fields}
    samples = f"{name}~samples"
    sampling = {key: value for key, value in body.items() if key in moved or key == "prompts"}
    rest = {key: value for key, value in body.items() if key not in moved}
    return {samples: {"kind": "sample", **sampling}, name: {**rest, "completions": samples}}


def run(job: Job) -> None:
    raise NotImplementedError


STAGE = StageKind(
    name="evaluate", version=1, config=Evaluate, outputs=outputs, run=run, check=check, expand=expand,
    resources=Resources(minutes=240),
)
