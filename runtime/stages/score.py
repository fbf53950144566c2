"""`score`: what a reward model says of completions, or how often it agrees with preferences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.artifacts import Port
from runtime.fields import Frozen, Reference, result, speed, takes
from runtime.job import Job
from runtime.stage import TORCH, Problem, Resources, StageConfig, StageKind
from runtime.stages.sample import chat_templates
from runtime.training_config import Truncation

OF_PAIRS = ("accuracy", "accuracy_se", "margin", "margin_se")
OF_COMPLETIONS = ("reward", "reward_se", "avg_length")


class Rewarding(Frozen):
    """How rows are cut before a reward model reads them."""

    max_length: int = result(512, doc="longest prompt plus completion in tokens", ge=2)
    max_prompt_length: int = result(256, doc="longest prompt in tokens, where the whole is too long", ge=1)
    truncation: Truncation = result("drop", doc="rows that are too long, as in a training; always counted")
    batch_size: int = speed(16, doc="completions computed together", ge=1)


class Score(StageConfig, Rewarding):
    """Of completions, their mean reward; of preferences, how often the chosen answer has the higher one."""

    model: Reference = takes("RewardModel", doc="a trained reward model")
    data: Reference = takes("Completions", "Preferences", doc="what to score")


def outputs(config: Score, inputs: Mapping[str, Port]) -> dict[str, Port]:
    data = inputs["data"]
    metrics = OF_PAIRS if data.type == "Preferences" else OF_COMPLETIONS
    return {"": Port(type="Scores", path="metrics.json", metrics=metrics, pools=data.pools)}


def check(config: Score, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    data = inputs["data"]
    tested = inputs["model"] if data.type == "Preferences" else data  # the reward model, or who answered
    if any(p.may_overlap(q) for p in data.pools for q in tested.seen):
        hint = "score a split that no training stage reads"
        yield Problem("AC333", "data", "the model was trained on these prompts", hint)
    if any(p.role == "test" and p.may_overlap(q) for p in data.pools for q in tested.chosen):
        hint = "choose and test on splits of one `prepare` stage: they are disjoint"
        yield Problem("AC334", "data", "the model was chosen by its scores on prompts of this test set", hint)


def run(job: Job) -> None:
    from runtime.files import write_json, write_rows
    from runtime.reward_models import Grader

    grader, data = Grader(job), job.input("data")
    of_pairs = data.type == "Preferences"
    examples = grader.read(data.path, ("chosen", "rejected") if of_pairs else ("completion",))
    rewards = grader.rewards(s for example in examples for s in example.sequences)
    if of_pairs:
        items = [_pair(e.id, *both) for e, *both in zip(examples, rewards[::2], rewards[1::2], strict=True)]
        metrics = {**_metric(items, "correct", "accuracy", 100.0), **_metric(items, "margin", "margin")}
    else:
        lengths = _lengths(job)
        items = [
            {"id": e.id, "reward": r, "length": lengths[e.id]} for e, r in zip(examples, rewards, strict=True)
        ]
        metrics = _metric(items, "reward", "reward")
        metrics["avg_length"] = int(sum(item["length"] for item in items) / len(items))
    write_rows(job.out / "items.jsonl", items)
    write_json(job.out / "metrics.json", metrics)
    job.report(rows=len(items), metrics=metrics, truncation=grader.cut.counts.told())


def _pair(name: str, chosen: float, rejected: float) -> dict[str, Any]:
    return {
        "id": name,
        "correct": int(chosen > rejected),
        "margin": chosen - rejected,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
    }


def _lengths(job: Job) -> dict[str, int]:
    """Characters of each completion."""
    from runtime.judging import read_completions

    return {name: len(row["completion"]) for name, row in read_completions(job.input("data").path).items()}


def _metric(items: Sequence[Mapping[str, Any]], field: str, name: str, factor: float = 1.0) -> dict[str, Any]:
    """Mean of a field, and its standard error."""
    from runtime.statistics.estimates import mean, standard_error

    values = [factor * item[field] for item in items]
    return {name: mean(values), f"{name}_se": standard_error(values)}


STAGE = StageKind(
    name="score",
    version=1,
    config=Score,
    outputs=outputs,
    run=run,
    check=check,
    templates=chat_templates,
    resources=Resources(memory_gb=8, minutes=240),
    preload=TORCH,
)
