"""What `alignc score` is asked, found out and said: as text and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compiler.errors import UsageError
from runtime.interchange.alpaca_eval import Annotation, read_annotations, read_outputs, with_texts
from runtime.plural import counted
from runtime.statistics.intervals import Components, components
from runtime.statistics.score import Compared, Interval, Score, average_length, compare, score

if TYPE_CHECKING:
    from runtime.interchange.alpaca_eval import Output
    from runtime.statistics.length_control import LengthControlled

Role = Literal["models", "seeds", "repeats"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of `alignc score`; `outputs` and `names` are empty or one for each file."""

    annotations: tuple[Path, ...]
    reference: Path | None = None
    outputs: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    difficulty: Path | None = None
    weights: Path | None = None
    gamed: Path | None = None
    alignment: Literal["instruction", "position"] = "instruction"
    role: Role = "models"
    resamples: int = 2000


@dataclass(frozen=True, slots=True)
class Report:
    """Scores of each file, models in pairs, and what several runs or verdicts of one model say together."""

    asked: Asked
    scores: tuple[Score, ...]
    compared: tuple[Compared, ...]
    together: Components | None


def gather(asked: Asked) -> Report:
    """Reads and scores the files. Raises JobError and UsageError."""
    for option, given in (("--outputs", asked.outputs), ("--name", asked.names)):
        if given and len(given) != len(asked.annotations):
            raise UsageError(
                f"`{option}` is given {len(given)} times for {len(asked.annotations)} files: give it for each"
            )
    if asked.difficulty is None and (asked.weights or asked.gamed):
        raise UsageError(
            "the length-controlled win rate needs `--difficulty`, a CSV of `index, instruction_difficulty`"
        )
    if asked.difficulty is not None and (asked.weights is None) == (asked.gamed is None):
        raise UsageError("give one of `--weights`, to predict from fitted ones, and `--gamed`, to fit them")
    reference = read_outputs(asked.reference) if asked.reference else []
    scores = _told_apart([_score(asked, i, reference) for i in range(len(asked.annotations))], asked)
    compared: tuple[Compared, ...] = ()
    together = None
    try:
        if asked.role == "models":
            compared = tuple(compare(a, b, asked.resamples) for a, b in combinations(scores, 2))
        else:
            together = _together(scores, asked.role)
    except ValueError as error:
        raise UsageError(f"these files cannot be taken together: {error}") from error
    return Report(asked, scores, compared, together)


def _told_apart(scores: Sequence[Score], asked: Asked) -> tuple[Score, ...]:
    """Scores whose names differ: models of one name get the path of their file behind it."""
    names = Counter(one.name for one in scores)
    return tuple(
        replace(one, name=f"{one.name} ({path})") if names[one.name] > 1 else one
        for one, path in zip(scores, asked.annotations, strict=True)
    )


def _score(asked: Asked, i: int, reference: Sequence[Output]) -> Score:
    path = asked.annotations[i]
    outputs = read_outputs(asked.outputs[i]) if asked.outputs else []
    rows = with_texts(read_annotations(path), outputs, reference)
    name = (
        asked.names[i] if asked.names else _only(row.name for row in rows) or path.name.partition(".json")[0]
    )
    baseline = _only(row.baseline_name for row in rows) or _only(row.generator for row in reference)
    lengths = [row.output for row in outputs] if outputs else [row.answer for row in rows]
    controlled = _length_controlled(asked, name, baseline, rows, reference)
    found = score(name, baseline, rows, average_length(lengths), controlled, asked.resamples)
    missing = {row.instruction for row in reference} - {row.instruction for row in rows}
    return replace(found, n_missing=len(missing) if reference else None)


def _only(names: Iterator[str]) -> str:
    """The name that all rows have; empty where they differ or have none."""
    found = set(names)
    return found.pop() if len(found) == 1 else ""


def _length_controlled(
    asked: Asked, name: str, baseline: str, rows: Sequence[Annotation], reference: Sequence[Output]
) -> LengthControlled | None:
    from runtime.statistics.length_control import (
        NO_WEIGHTS,
        align,
        fit,
        pairs_of,
        predict,
        read_difficulties,
        read_gamed,
        read_weights,
    )

    if asked.difficulty is None:
        return None
    difficulties = align(rows, read_difficulties(asked.difficulty, reference), asked.alignment)
    if asked.weights is not None:
        weights = read_weights(asked.weights, name)
    elif baseline and name == baseline:
        weights = NO_WEIGHTS
    else:
        assert asked.gamed is not None
        try:
            weights = fit(pairs_of(rows, difficulties), read_gamed(asked.gamed))
        except ModuleNotFoundError as error:
            raise UsageError(
                "fitting weights needs numpy: install `alignc[results]`, or give `--weights`"
            ) from error
    return predict(weights, difficulties)


def _together(scores: Sequence[Score], role: Role) -> Components:
    """Each file is a run, or one more verdict on the same answers."""
    wins = [one.wins() for one in scores]
    prompts = dict.fromkeys(key for one in wins for key in one)
    values = {key: [one.get(key) for one in wins] for key in prompts}
    if role == "seeds":
        return components({key: [[x] for x in row] for key, row in values.items()})
    return components({key: [row] for key, row in values.items()})


# ---------------------------------------------------------------- text


def to_text(report: Report) -> str:
    parts = ["\n".join(_said(one, report.asked)) for one in report.scores]
    if report.compared:
        parts.append("\n".join(["a minus b, on the same prompts", *map(_compared, report.compared)]))
    if report.together:
        parts.append("\n".join(_components(report.together, report.asked.role)))
    return "\n\n".join(parts)


def _range(interval: Interval | None, digits: int = 2) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else "not known"


def _said(one: Score, asked: Asked) -> Iterator[str]:
    rate = one.rate
    yield one.name + (f" against {one.baseline}" if one.baseline else "")
    if rate.win_rate is None:
        yield "  nothing was judged"
    else:
        error = "" if rate.standard_error is None else f" ± {rate.standard_error:.2f}"
        yield _line("win rate", f"{rate.win_rate:.2f} %{error}", f"95 % interval {_range(one.interval)}, "
                    f"by bootstrap {_range(one.bootstrap_interval)}")  # fmt: skip
        yield _line("discrete", f"{rate.discrete_win_rate:.2f} %",
                    f"95 % interval {_range(one.discrete_interval)} (Wilson)")  # fmt: skip
    counts = f"{rate.n_wins}, {rate.n_wins_base}, {rate.n_draws}"
    missing = f", {one.n_missing} of the reference not annotated" if one.n_missing else ""
    yield _line(
        "wins, losses, draws", counts, f"{rate.n_total} judged, {rate.n_null} without a verdict{missing}"
    )
    if one.avg_length is not None:
        yield _line("average length", f"{one.avg_length}", "characters")
    if one.length_controlled:
        how = "given weights" if asked.weights else f"fitted, C = {one.length_controlled.weights.c or 0:.3g}"
        yield _line("length-controlled", f"{one.length_controlled.win_rate:.2f} %",
                    f"{how}; difficulty by {asked.alignment}")  # fmt: skip


def _line(what: str, value: str, more: str) -> str:
    return f"  {what:<21}{value:<17}{more}".rstrip()


def _compared(one: Compared) -> str:
    found = one.difference
    interval = None if found.low is None or found.high is None else (found.low, found.high)
    lost = f", {found.n_unpaired} judged for one only" if found.n_unpaired else ""
    return (
        f"  {one.a} - {one.b}: {found.mean:+.2f} points, 95 % interval {_range(interval)}, "
        f"by bootstrap {_range(one.bootstrap_interval)}; {counted(found.n, 'prompt')}{lost}\n"
        f"    only {one.a} beat the baseline on {one.only_a}, only {one.b} on {one.only_b}: "
        f"McNemar's p = {one.mcnemar_p:.2g}"
    )


def _components(found: Components, role: Role) -> Iterator[str]:
    files = found.runs if role == "seeds" else found.repeats
    lost = f", {found.n_incomplete} not judged in every file" if found.n_incomplete else ""
    of = "seeds" if role == "seeds" else "verdicts of the judge"
    yield f"over {files} {of}, {counted(found.n, 'prompt')}{lost}"
    whom = "other prompts and other seeds" if role == "seeds" else "other prompts"
    yield _line("win rate", f"{found.mean:.2f} % ± {found.standard_error:.2f}",
                f"95 % interval {_range((found.low, found.high))}, over {whom}")  # fmt: skip
    parts = {
        "prompts": found.prompt,
        "runs": found.run,
        "runs by prompt": found.interaction,
        "judge": found.judge,
    }
    for name, variance in parts.items():
        if variance is not None:
            yield _line(name, f"{math.sqrt(variance):.2f} points",
                        f"deviation; {100 * found.shares[name]:.0f} % of the error's square")  # fmt: skip


# ---------------------------------------------------------------- JSON


def to_json(report: Report) -> dict[str, Any]:
    return {
        "schema": "alignc.score/1",
        "models": [_model_json(one, report.asked) for one in report.scores],
        "comparisons": [asdict(one) for one in report.compared],
        "together": report.together and {**asdict(report.together), "shares": report.together.shares},
    }


def _model_json(one: Score, asked: Asked) -> dict[str, Any]:
    controlled = one.length_controlled
    return {
        "name": one.name,
        "baseline": one.baseline,
        **{name: value for name, value in one.row().items() if name != "mode"},
        "n_null": one.rate.n_null,
        "n_missing": one.n_missing,
        "interval": one.interval,
        "bootstrap_interval": one.bootstrap_interval,
        "discrete_interval": one.discrete_interval,
        "length_control": controlled
        and {
            "alignment": asked.alignment,
            "fitted": asked.weights is None,
            "weights": asdict(controlled.weights),
        },
    }
