"""What `alignc power` is asked, found out and said: prompts and dollars that tell a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from runtime.interchange.alpaca_eval import Annotation, by_instruction, read_annotations
from runtime.statistics import power
from runtime.statistics.estimates import mean, win

TEMPLATE = "judge/pairwise.j2"


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of `alignc power`; differences in points."""

    annotations: tuple[Path, ...]
    difference: float
    wanted: float = power.POWER
    level: float = 0.95
    correlation: float | None = None
    prompts: int = 805
    judge: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class Need:
    """What one kind of comparison takes; deviation and `detectable` in points, `usd` None where unpriced."""

    what: str
    deviation: float
    basis: str
    prompts: int
    verdicts: int
    usd: float | None
    detectable: float


@dataclass(frozen=True, slots=True)
class Planned:
    asked: Asked
    needs: tuple[Need, ...]
    usd_per_verdict: float | None
    price_basis: str


def plan(asked: Asked) -> Planned:
    """Raises JobError and UsageError."""
    if len(asked.annotations) > 2:
        raise UsageError("give annotations of one model or of two")
    files = [read_annotations(path) for path in asked.annotations]
    usd, basis = _price(asked, [row for rows in files for row in rows])
    wins = [_wins(rows, path) for rows, path in zip(files, asked.annotations, strict=True)]

    def need(what: str, models: int, deviation: float, why: str) -> Need:
        if not deviation:
            raise UsageError(f"{what}: nothing varies there, so nothing can be planned from it")
        try:
            prompts = power.prompts_needed(asked.difference, deviation, asked.wanted, asked.level)
        except ValueError as error:
            raise UsageError(f"{what}: {error}") from error
        verdicts = prompts * models * asked.times
        cost = None if usd is None else usd * verdicts
        smallest = power.detectable(asked.prompts, deviation, asked.wanted, asked.level)
        return Need(what, deviation, why, prompts, verdicts, cost, smallest)

    single, why = power.ALL_OR_NONE, "a win or a loss, both as likely"
    if wins:
        single = max(power.deviation_of(list(side.values())) for side in wins)
        why = "as in the file" if len(wins) == 1 else "the larger of the two files'"
    return Planned(
        asked,
        (
            need("one model against a fixed rate, such as 50 %", 1, single, why),
            need("two models on the same prompts", 2, *_paired(asked, wins, single)),
        ),
        usd,
        basis,
    )


def _wins(rows: Sequence[Annotation], path: Path) -> dict[str, float]:
    found = ((key, win(row.preference)) for key, row in by_instruction(rows).items())
    wins = {key: 100 * share for key, share in found if share is not None}
    if len(wins) < 2:
        raise UsageError(f"{path} has fewer than two verdicts, which tell nothing of how they vary")
    return wins


def _paired(asked: Asked, wins: Sequence[Mapping[str, float]], single: float) -> tuple[float, str]:
    """The deviation of a difference, and where it is from."""
    if len(wins) < 2 or asked.correlation is not None:
        r = asked.correlation or 0.0
        deviation = power.paired_deviation(single, single, r)
        return deviation, f"correlation {r:g}" + (", stated" if r else ": two files of annotations tell it")
    a, b = wins
    common = [key for key in a if key in b]
    if len(common) < 2:
        raise UsageError("the two files have fewer than two prompts in common")
    left, right = [a[key] for key in common], [b[key] for key in common]
    r = power.correlation(left, right)
    deviation = power.paired_deviation(power.deviation_of(left), power.deviation_of(right), r)
    return deviation, f"correlation {r:.2f} on {len(common)} prompts"


def _price(asked: Asked, rows: Sequence[Annotation]) -> tuple[float | None, str]:
    """USD of one verdict, and where they are from; None where nothing tells."""
    if asked.judge is None:
        paid = [row.price for row in rows if row.price is not None]
        if not paid:
            return None, "name the `--judge` for dollars"
        return mean(paid), "what the files' verdicts cost"
    from compiler.cost.estimate import VERDICT
    from compiler.cost.prices import price_of, read_tables
    from runtime.declare import OpenAiLLM

    price = price_of(OpenAiLLM(provider="openai", model=asked.judge), read_tables(None))
    if price is None:
        raise UsageError(
            f"no price of {asked.judge!r} is known: add it to ~/.config/alignc/prices.yaml, "
            f"as `models: {{{asked.judge}: {{input: 2.5, output: 10}}}}`, in USD for a million tokens"
        )
    read, written = asked.input_tokens or _input_tokens(rows), asked.output_tokens or VERDICT.likely
    usd = (read * price.input + written * price.output) / 1e6
    return usd, f"{asked.judge}, {read:.0f} tokens in and {written:.0f} out; {price.basis}"


def _input_tokens(rows: Sequence[Annotation]) -> float:
    """Tokens of the mean pair and the judge's template, from characters."""
    from compiler.cost.flow import template_characters
    from compiler.cost.models import GUESSED

    texts = [(row.instruction, row.baseline, row.answer) for row in rows]
    lengths = [sum(len(part or "") for part in parts) for parts in texts if None not in parts]
    if not lengths:
        raise UsageError("how long a comparison is stands in no file: say `--input-tokens`, such as 1000")
    return (mean(lengths) + template_characters(TEMPLATE)[0]) / GUESSED.likely


def to_text(found: Planned) -> str:
    asked = found.asked
    lines = [
        f"to tell a true difference of {asked.difference:g} points with probability {asked.wanted:g}, "
        f"by a {100 * asked.level:g} % interval:"
    ]
    for need in found.needs:
        usd = "" if need.usd is None else f", ${need.usd:,.2f}"
        lines += [
            f"  {need.what}: {need.prompts:,} prompts, {need.verdicts:,} verdicts{usd}",
            f"    deviation {need.deviation:.1f} points ({need.basis}); "
            f"{asked.prompts:,} prompts tell {need.detectable:.1f} points",
        ]
    each = "dollars" if found.usd_per_verdict is None else f"${found.usd_per_verdict:.4g} a verdict"
    return "\n".join([*lines, f"{each}: {found.price_basis}"])


def to_json(found: Planned) -> dict[str, Any]:
    asked = found.asked
    return {
        "schema": "alignc.power/1",
        "difference": asked.difference,
        "power": asked.wanted,
        "level": asked.level,
        "prompts": asked.prompts,
        "usd_per_verdict": found.usd_per_verdict,
        "price_basis": found.price_basis,
        "needs": [asdict(need) for need in found.needs],
    }
