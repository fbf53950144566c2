"""`rank`: several completions of each prompt, ranked by a reward model: the best, and pairs to train on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import model_validator

from runtime.artifacts import Pool, Port
from runtime.fields import Reference, nothing, result, takes
from runtime.job import Job
from runtime.stage import TORCH, Problem, Resources, StageConfig, StageKind
from runtime.stages.sample import chat_templates
from runtime.stages.score import Rewarding

BEST = "best.jsonl"


class Rank(StageConfig, Rewarding):
    """Of each prompt, the completion of the highest and that of the lowest reward make a preference.

    The output `best` has the first of each (best of n). A prompt whose completions are all alike makes
    no preference.
    """

    candidates: Reference | None = takes(
        "Completions",
        default=None,
        many=True,
        alias="from",
        doc="completions that differ by an axis, as a sweep over `seed` (written `from`)",
    )
    a: Reference | None = takes("Completions", default=None, doc="instead of `from`: completions, and")
    b: Reference | None = takes("Completions", default=None, doc="others of the same prompts")
    model: Reference = takes("RewardModel", doc="a trained reward model")
    over: tuple[str, ...] | None = nothing(
        None, doc="axes to reduce; none: those that sweeps and checkpoints added"
    )
    least: float = result(0.0, doc="a smaller difference of rewards makes no preference", ge=0)

    @model_validator(mode="after")
    def _candidates_once(self) -> Rank:
        given = (self.candidates is not None, self.a is not None, self.b is not None)
        if given not in ((True, False, False), (False, True, True)):
            raise ValueError("give either `from`, or both `a` and `b`")
        return self


CANDIDATES = ("candidates", "a", "b")  # the fields that name completions


def outputs(config: Rank, inputs: Mapping[str, Port]) -> dict[str, Port]:
    ports = [inputs[name] for name in CANDIDATES if name in inputs]
    pools, seen, chosen = (
        frozenset[Pool]().union(*(getattr(port, name) for port in ports))
        for name in ("pools", "seen", "chosen")
    )
    best = replace(ports[0], type="Completions", path=BEST, pools=pools, seen=seen, chosen=chosen)
    return {"": Port(type="Preferences", path="data.jsonl", pools=pools), "best": best}


def check(config: Rank, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    one, *others = (inputs[name].pools for name in CANDIDATES if name in inputs)
    if any(not any(p.may_overlap(q) for p in one for q in other) for other in others):
        yield Problem("AC330", "b", "`a` and `b` answer different prompts, so they make no pair")


def run(job: Job) -> None:
    from runtime.files import write_rows
    from runtime.job import JobError
    from runtime.reward_models import Grader

    grader = Grader(job)
    prompts = _ranked(job, grader)
    pairs = [(ranked[0], ranked[-1]) for ranked in prompts if _differ(ranked, job.config.least)]
    if not pairs:
        raise JobError(f"the rewards prefer no completion of any of {len(prompts)} prompts to another")
    write_rows(job.out / "data.jsonl", (_preference(*pair) for pair in pairs))
    write_rows(job.out / BEST, (row for (row, _), *_ in prompts))
    rewards = [reward for ranked in prompts for _, reward in ranked]
    job.report(
        prompts=len(prompts),
        pairs=len(pairs),
        completions=len(rewards),
        reward=sum(rewards) / len(rewards),
        reward_of_best=sum(ranked[0][1] for ranked in prompts) / len(prompts),
        truncation=grader.cut.counts.told(),
    )


Graded = tuple[dict[str, Any], float]  # a row of completions, and its reward


def _ranked(job: Job, grader: Any) -> list[list[Graded]]:
    """The completions of each prompt, the highest reward first; equal ones stay in the candidates' order.

    Raises JobError where an id stands for two prompts.
    """
    from runtime.job import JobError
    from runtime.judging import read_completions

    rows, sequences = [], []
    for given in (one for name in CANDIDATES for one in job.inputs.get(name, ())):
        by_id = read_completions(given.path)
        examples = grader.read(given.path, ("completion",))
        rows += [by_id[example.id] for example in examples]
        sequences += [example.sequences[0] for example in examples]
    prompts: dict[str, list[Graded]] = {}
    for row, reward in zip(rows, grader.rewards(sequences), strict=True):
        mine = prompts.setdefault(row["id"], [])
        if mine and mine[0][0]["prompt"] != row["prompt"]:
            raise JobError(f"the completions answer different prompts under the same id {row['id']!r}")
        mine.append((row, reward))
    return [sorted(found, key=lambda one: -one[1]) for found in prompts.values()]


def _differ(ranked: Sequence[Graded], least: float) -> bool:
    difference = ranked[0][1] - ranked[-1][1]
    return difference > 0 and difference >= least


def _preference(best: Graded, worst: Graded) -> dict[str, str]:
    row, other = best[0], worst[0]
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "chosen": row["completion"],
        "rejected": other["completion"],
    }


STAGE = StageKind(
    name="rank",
    version=1,
    config=Rank,
    outputs=outputs,
    run=run,
    check=check,
    templates=chat_templates,
    resources=Resources(memory_gb=8, minutes=240),
    preload=TORCH,
)
