"""Amounts that are not known exactly: a low, a likely and a high value; and costs, which are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Range:
    """An amount of at least 0. Bounds are combined as if everything were low, or high, at once.

    That is wide on purpose: the assumptions behind the parts of a sum are the same ones.
    """

    low: float
    likely: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        if isinstance(other, Range):
            return Range(self.low * other.low, self.likely * other.likely, self.high * other.high)
        return Range(self.low * other, self.likely * other, self.high * other)

    def __truediv__(self, other: Range | float) -> Range:
        if isinstance(other, Range):
            return Range(self.low / other.high, self.likely / other.likely, self.high / other.low)
        return Range(self.low / other, self.likely / other, self.high / other)

    def at_most(self, other: Range | float) -> Range:
        most = other if isinstance(other, Range) else exactly(other)
        return Range(min(self.low, most.low), min(self.likely, most.likely), min(self.high, most.high))

    def at_least(self, least: Range) -> Range:
        return Range(max(self.low, least.low), max(self.likely, least.likely), max(self.high, least.high))


def exactly(value: float) -> Range:
    return Range(value, value, value)


NOTHING = exactly(0)


def total(amounts: Iterable[Range]) -> Range:
    low = likely = high = 0.0
    for amount in amounts:
        low, likely, high = low + amount.low, likely + amount.likely, high + amount.high
    return Range(low, likely, high)


def observed(values: Sequence[float]) -> Range:
    """What to expect after having seen these values: their median, and a quarter beyond their extremes."""
    return Range(min(values) / 1.25, median(values), max(values) * 1.25)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node will cost. `unknown` says why there is no estimate; `unpriced` names an llm
    without a known price. Tokens read: prompts, or what is trained on, over all epochs."""

    rows: Range = NOTHING
    tokens_read: Range = NOTHING
    tokens_written: Range = NOTHING
    flops: Range = NOTHING
    seconds: Range = NOTHING
    gpu_hours: Range = NOTHING
    cpu_hours: Range = NOTHING
    usd: Range = NOTHING
    basis: tuple[str, ...] = ()
    unknown: str = ""
    unpriced: str = ""


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of all nodes that are not sealed, by their index; equal work is at its first node only."""

    nodes: Mapping[int, Cost]

    @property
    def gpu_hours(self) -> Range:
        return total(c.gpu_hours for c in self.nodes.values())

    @property
    def cpu_hours(self) -> Range:
        return total(c.cpu_hours for c in self.nodes.values())

    @property
    def usd(self) -> Range:
        return total(c.usd for c in self.nodes.values())

    @property
    def unpriced(self) -> list[str]:
        return list(dict.fromkeys(c.unpriced for c in self.nodes.values() if c.unpriced))

    @property
    def unknown(self) -> dict[str, int]:
        """Why some nodes have no estimate -> how many."""
        found: dict[str, int] = {}
        for cost in self.nodes.values():
            if cost.unknown:
                found[cost.unknown] = found.get(cost.unknown, 0) + 1
        return found
