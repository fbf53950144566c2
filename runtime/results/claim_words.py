"""Claims and their verdicts in words: for a terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from runtime.results.claims import Decided, Decision, Difference, Verdict
from runtime.results.description import ClaimSpec
from runtime.results.documents import escape_markdown
from runtime.results.metrics import Metric
from runtime.results.words import number
from runtime.statistics.estimates import t_quantile

MARKS: dict[Verdict, str] = {"holds": "+", "does not hold": "-", "cannot tell": "?"}


def sentence(decided: Decided) -> str:
    """The claim and its verdicts in one line."""
    published = f"; published: {decided.published.verdict}" if decided.published else ""
    return f"{decided.claim.says or decided.claim.name}: {decided.ours.verdict}{published}."


def meaning(claim: ClaimSpec) -> str:
    """What is tested, in words."""
    count = len(claim.pairs)
    ways = {"every": f"at each of {count} places", "some": f"at one of {count} places or more"}
    at = ways[claim.of] if count > 1 else f"at {claim.pairs[0].label}"
    by = f" or at most {claim.margin:g} behind" if claim.margin > 0 else ""
    by = f" by more than {-claim.margin:g}" if claim.margin < 0 else by
    return f"{claim.better} ahead of {claim.than}{by}, {at} (table {claim.table})"


def places(decision: Decision, metric: Metric, level: float) -> list[str]:
    """Each place with its difference and interval, or what it lacks."""
    return [f"{d.label}: {_told(d, metric, level)}" for d in decision.differences]


def _told(d: Difference, metric: Metric, level: float) -> str:
    if d.mean is None:
        return d.missing
    digits = max(metric.decimals, 1)
    if d.standard_error is None:
        return f"{_signed(d.mean, digits)} ({d.missing})"
    # Student's with so many degrees of freedom is the normal distribution to all digits shown.
    half = t_quantile((1 + level) / 2, d.df or 1e6) * d.standard_error
    return f"{_signed(d.mean, digits)} ({number(d.mean - half, digits)} to {number(d.mean + half, digits)})"


def _signed(value: float, digits: int) -> str:
    return ("+" if value > 0 else "") + number(value, digits)


def claims_text(decided: Iterable[Decided]) -> str:
    """All claims for a terminal; empty where there is none."""
    lines: list[str] = []
    for one in decided:
        level = one.claim.level
        lines.append(f"{MARKS[one.ours.verdict]} {sentence(one)}")
        lines.append(f"  tested: {meaning(one.claim)}")
        lines += [f"  {name}: {'; '.join(places(d, one.metric, level))}" for name, d in sides_of(one)]
    return "\n".join(["claims", "", *lines]) + "\n" if lines else ""


def claims_markdown(decided: Sequence[Decided]) -> str:
    lines = ["# Claims", ""]
    for one in decided:
        told = [f"tested: {meaning(one.claim)}"]
        told += [f"{name}: {'; '.join(places(d, one.metric, one.claim.level))}" for name, d in sides_of(one)]
        lines += [f"**{escape_markdown(sentence(one))}**", "", *(f"- {escape_markdown(t)}" for t in told)]
        lines.append("")
    return "\n".join(lines)


def sides_of(one: Decided) -> Iterator[tuple[str, Decision]]:
    """Whose numbers say what."""
    yield "ours", one.ours
    if one.published:
        yield "published", one.published


CSV_HEADER = ("claim", "numbers", "verdict", "place", "difference", "standard_error", "df", "margin", "note")


def claims_csv(decided: Iterable[Decided]) -> str:
    """A line for each place of each claim, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for one in decided:
        for name, decision in sides_of(one):
            for d in decision.differences:
                figures = [repr(v) if v is not None else "" for v in (d.mean, d.standard_error, d.df)]
                writer.writerow(
                    [one.claim.name, name, decision.verdict, d.label, *figures, one.claim.margin, d.missing]
                )
    return out.getvalue()
