"""`evaluate`: scores a model's completions: win rate against a reference, exact-match accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job
from runtime.stage import Problem, Resources, StageConfig, StageKind
from runtime.stages.label import Judging, check_judging, judge_templates
from runtime.stages.sample import Sampling

if TYPE_CHECKING:
    from runtime.statistics.length_control import Control
    from runtime.wordings import Pair

WIN_RATE = ("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate")
CONTROLLED = ("length_controlled_winrate", "length_controlled_se")
ACCURACY = ("accuracy", "accuracy_se")
ALWAYS = ("avg_length",)


class Evaluate(StageConfig, Judging):
    """Scores of completions. `model` and `prompts` are short for a `sample` stage made on the spot.

    Win rates are AlpacaEval's: mean of the preference for the model, ties one half, standard error
    with ddof 1; in percent.
    """

    completions: Reference = takes("Completions", doc="what to score")
    prompts: Reference | None = takes(
        "Prompts", doc="the prompts, with true answers or reference completions", default=None
    )
    reference: Reference | None = takes(
        "Completions", doc="what to compare with; none: the completions of `prompts`", default=None
    )
    evaluator: Reference | None = takes("LLM", doc="judge of the win rate; none: accuracy only", default=None)
    length_control: bool = result(
        False,
        later=True,
        doc="also the win rate that would be if both answers were as long (`length_controlled_winrate`)",
    )
    lengths: Reference | None = takes(
        "Lengths", doc="AlpacaEval's files of length control; none: controlled by lengths alone", default=None
    )


class OnTheSpot(Sampling):
    """Short for a `sample` stage made on the spot."""

    model: Reference = takes("Model", doc="instead of `completions`: the model to sample them from")


def _versus(inputs: Mapping[str, Port]) -> Port | None:
    """The port of the reference completions, where there are any."""
    prompts = inputs.get("prompts")
    return inputs.get("reference") or (prompts if prompts and prompts.type == "Demonstrations" else None)


def outputs(config: Evaluate, inputs: Mapping[str, Port]) -> dict[str, Port]:
    metrics: tuple[str, ...] = ALWAYS
    if "evaluator" in inputs and _versus(inputs):
        controlled = CONTROLLED if config.length_control or config.lengths else ()
        metrics = WIN_RATE + controlled + metrics
    if inputs["completions"].answers:
        metrics = ACCURACY + metrics
    return {"": Port(type="Scores", path="metrics.json", metrics=metrics, pools=inputs["completions"].pools)}


def check(config: Evaluate, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    yield from check_judging(config, inputs)
    if "evaluator" in inputs and not _versus(inputs):
        yield Problem("AC331", "evaluator", "there is nothing to compare with", "name a `reference`")
    done, field = inputs["completions"], "prompts" if config.prompts else "completions"
    if any(p.may_overlap(q) for p in done.pools for q in done.seen):
        hint = "evaluate on a split that no training stage reads"
        yield Problem("AC333", field, "the model was trained on these prompts", hint)
    if any(p.role == "test" and p.may_overlap(q) for p in done.pools for q in done.chosen):
        hint = "choose and test on splits of one `prepare` stage: they are disjoint"
        yield Problem("AC334", field, "the model was chosen by its scores on prompts of this test set", hint)


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
    from runtime.files import write_json, write_rows
    from runtime.job import JobError
    from runtime.judging import judge_job, pair_up, read_by_id, read_completions

    done = read_completions(job.input("completions").path)
    if not done:
        raise JobError("there are no completions to score")
    prompts = job.optional("prompts")
    asked = read_by_id(prompts.path, "prompt") if prompts else {}
    verdicts: list[dict[str, Any]] = []
    controlled: dict[str, Any] = {}
    evaluator = job.optional("evaluator")
    if evaluator:
        versus = _reference(job)
        pairs = pair_up(versus, done)
        if not pairs:
            raise JobError("no prompt has both a completion and a reference, so there is nothing to compare")
        control = _control(job, pairs)  # what it lacks is told before anybody is asked
        verdicts = [verdict for _, verdict in judge_job(job, evaluator.declared, pairs)]
        controlled = _controlled(job, control, pairs, verdicts) if control else {}
        job.report(without_partner=len(versus) + len(done) - 2 * len(pairs))
    items = _items(done, asked, {row["id"]: row for row in verdicts})
    write_rows(job.out / "items.jsonl", items)
    metrics = {**_metrics(items, [row["preference"] for row in verdicts]), **controlled}
    write_json(job.out / "metrics.json", metrics)
    job.report(completions=len(done), metrics=metrics)
    if len(variance := [item["repeats"] for item in items if "repeats" in item]) > 1:
        job.report(variance=_variance(variance))


def _reference(job: Job) -> Mapping[str, dict[str, Any]]:
    """The completions to compare with: the input `reference`, else those of `prompts`."""
    from runtime.job import JobError
    from runtime.judging import read_completions

    found = job.optional("reference") or job.optional("prompts")
    if found is None:
        raise JobError("there is nothing to compare with: name a `reference`")
    return read_completions(found.path)


def _control(job: Job, pairs: Sequence[Pair]) -> Control | None:
    """By what win rates are controlled; None where they are not. Raises JobError where they cannot be."""
    from importlib.util import find_spec

    from runtime.job import JobError
    from runtime.stages.prepare import require_unchanged
    from runtime.statistics.length_control import Control, read_control

    lengths = job.optional("lengths")
    if not (lengths or job.config.length_control):
        return None
    if find_spec("numpy") is None:
        raise JobError("the length-controlled win rate needs numpy: install `alignc[results]`")
    if lengths is None:
        return Control()
    require_unchanged(job, "lengths")
    control = read_control(Path(lengths.declared.path))
    control.difficulties(_annotations(pairs, [None] * len(pairs)))
    return control


def _controlled(
    job: Job, control: Control, pairs: Sequence[Pair], verdicts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The length-controlled metrics; null where nothing can be fitted, which the report then explains."""
    from runtime.job import JobError

    try:
        rate, error = control.rate(_annotations(pairs, [row["preference"] for row in verdicts]))
    except JobError as problem:
        job.report(length_control=str(problem))
        return dict.fromkeys(CONTROLLED)
    job.report(length_control=asdict(rate.weights))
    found = dict(zip(CONTROLLED, (rate.win_rate, error), strict=True))
    return found if control.known is None else {**found, "lc_standard_error": rate.standard_error}


def _annotations(pairs: Sequence[Pair], preferences: Sequence[float | None]) -> list[Any]:
    from runtime.interchange.alpaca_eval import Annotation

    told = zip(pairs, preferences, strict=True)
    return [Annotation(f"prompt {p.id}", found, p.prompt, p.a, p.b) for p, found in told]


def _items(
    done: Mapping[str, Mapping[str, Any]],
    asked: Mapping[str, Mapping[str, Any]],
    verdicts: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What is known of each completion; null where it was not compared or has no true answer."""
    items = []
    for id_, row in done.items():
        verdict = verdicts.get(id_, {})
        found = verdict.get("preference")
        answer = row.get("answer", asked.get(id_, {}).get("answer"))
        items.append(
            {
                "id": id_,
                "preference": found,
                "win": None if found is None else found - 1,
                "correct": None if answer is None else int(row["completion"].strip() == str(answer).strip()),
                "length": len(row["completion"]),
            }
        )
        if "repeats" in verdict:
            items[-1]["repeats"] = [None if x is None else x - 1 for x in verdict["repeats"]]
    return items


def _variance(repeats: Sequence[Sequence[float | None]]) -> dict[str, Any] | None:
    """Where the uncertainty of the mean win comes from: prompts, and a judge that does not repeat itself.

    Over the prompts of which the judge was asked; wins from 0 to 1. None where fewer than two are complete.
    """
    from runtime.statistics.intervals import components

    try:
        found = components({str(number): [row] for number, row in enumerate(repeats)})
    except ValueError:
        return None
    told = {"prompts": found.n, "repeats": found.repeats, "mean": found.mean}
    return {**told, "standard_error": found.standard_error, "prompt": found.prompt, "judge": found.judge}


def _metrics(items: Sequence[Mapping[str, Any]], preferences: Sequence[float | None]) -> dict[str, Any]:
    """The metrics by name, in percent but for counts and lengths; null where nothing defines one."""
    from runtime.statistics.estimates import mean, standard_error, win_rate

    metrics: dict[str, Any] = {}
    if preferences:
        rate = asdict(win_rate(preferences))
        metrics |= {name: rate[name] for name in WIN_RATE}
    correct = [100.0 * item["correct"] for item in items if item["correct"] is not None]
    if correct:
        metrics |= {"accuracy": mean(correct), "accuracy_se": standard_error(correct)}
    return {**metrics, "avg_length": int(mean([item["length"] for item in items]))}


STAGE = StageKind(
    name="evaluate",
    version=1,
    config=Evaluate,
    outputs=outputs,
    run=run,
    check=check,
    templates=judge_templates,
    expand=expand,
    shorthand=OnTheSpot,
    resources=Resources(minutes=240),
)
