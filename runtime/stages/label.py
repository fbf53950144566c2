"""`label`: a critic chooses between two completions of each prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from runtime.artifacts import Port
from runtime.fields import Frozen, Reference, result, takes
from runtime.job import Job
from runtime.known import JudgeTemplate
from runtime.parsers import TIE
from runtime.stage import Problem, Resources, StageConfig, StageKind

if TYPE_CHECKING:
    from runtime.wordings import Pair


class Judging(Frozen):
    """How a pair is shown to a judge and how the reply is read."""

    wording: Reference | None = takes(
        "Wording", doc="a declared wording, instead of `template`", default=None
    )
    template: JudgeTemplate = result("pairwise", doc="a template of templates/judge/, by name")
    order: Literal["coin", "fixed", "both"] = result(
        "coin",
        doc="`coin`: AlpacaEval's seeded coin on the instruction; `fixed`: as given; "
        "`both`: asked twice, and a tie where the verdicts contradict each other",
    )
    judge_temperature: float = result(0.0, doc="sampling temperature of the judge", ge=0)
    judge_max_tokens: int = result(50, doc="longest verdict in tokens", ge=1)
    coin_seed: int = result(0, doc="seed of the coin")
    repeats: int = result(
        1,
        doc="how often each order is asked, each time with another seed; the mean is the preference",
        ge=1,
        later=True,
    )


class Label(StageConfig, Judging):
    """Preferences of a critic; ties and unreadable replies are kept as verdicts, never as preferences."""

    critic: Reference = takes("LLM", doc="a declared llm")
    a: Reference = takes("Completions", doc="one completion of each prompt")
    b: Reference = takes("Completions", doc="another completion of the same prompts")


def judge_templates(config: Judging, inputs: Mapping[str, Port]) -> Iterable[str]:
    """The judge's template, where there is a judge and no other wording."""
    asks = inputs.keys() & {"critic", "evaluator"} and "wording" not in inputs
    return (f"judge/{config.template}.j2",) if asks else ()


def check_judging(config: Judging, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    """Two wordings at once."""
    if "wording" in inputs and "template" in config.model_fields_set:
        message = "`template` and `wording` both say how the judge is asked"
        yield Problem("AC321", "template", message, "leave one of them out")


def outputs(config: Label, inputs: Mapping[str, Port]) -> dict[str, Port]:
    pools = inputs["a"].pools | inputs["b"].pools
    return {
        "": Port(type="Preferences", path="data.jsonl", pools=pools),
        "verdicts": Port(type="Verdicts", path="verdicts.jsonl", pools=pools),
    }


def check(config: Label, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    yield from check_judging(config, inputs)
    if not any(p.may_overlap(q) for p in inputs["a"].pools for q in inputs["b"].pools):
        yield Problem("AC330", "b", "`a` and `b` answer different prompts, so they make no pair")


def run(job: Job) -> None:
    from runtime.files import write_rows
    from runtime.job import JobError
    from runtime.judging import judge_job, pair_up, read_completions

    a, b = read_completions(job.input("a").path), read_completions(job.input("b").path)
    pairs = pair_up(a, b)
    if not pairs:
        raise JobError("no prompt has a completion in both `a` and `b`, so there is nothing to compare")
    preferred = Counter[bool]()  # whether it was `a`

    def decided() -> Iterator[dict[str, str]]:
        for pair, verdict in judge_job(job, job.input("critic").declared, pairs):
            if verdict["reason"] is None:
                preferred[verdict["preference"] < TIE] += 1
                yield _preference(pair, verdict["preference"])

    if not write_rows(job.out / "data.jsonl", decided()):
        reasons = _words(job.summary)
        raise JobError(f"the critic preferred neither answer in all of {len(pairs)} pairs: {reasons}")
    dollars = job.summary["dollars"]
    job.report(
        without_partner=len(a) + len(b) - 2 * len(pairs),
        a_preferred=preferred[True] / preferred.total(),
        dollars_per_preference=None if dollars is None else dollars / preferred.total(),
    )


def _preference(pair: Pair, found: float) -> dict[str, str]:
    chosen, rejected = (pair.a, pair.b) if found < TIE else (pair.b, pair.a)
    return {"id": pair.id, "prompt": pair.prompt, "chosen": chosen, "rejected": rejected}


def _words(counts: Mapping[str, int]) -> str:
    """Why no pair was decided."""
    reasons = ("ties", "contradictions", "identical", "unreadable", "failed")
    return ", ".join(f"{counts[name]} {name}" for name in reasons if counts[name])


STAGE = StageKind(
    name="label",
    version=1,
    config=Label,
    outputs=outputs,
    run=run,
    check=check,
    templates=judge_templates,
    resources=Resources(minutes=480),
)
