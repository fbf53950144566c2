"""Amounts that are not known exactly: a low, a likely and a high value, and arithmetic on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
