"""Numbers as people read them: `1.2k`, `3.4M`, `$12.50`."""

from __future__ import annotations

from compiler.cost.amounts import Range


def short(value: float) -> str:
    """Three figures at most, and a unit: 46100 is 46.1k."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value >= 0.001 or value == 0 else "<0.001"


def dollars(value: float) -> str:
    if 0 < value < 0.01:
        return "<$0.01"
    return f"${value:,.0f}" if value >= 1000 else f"${value:.2f}"


def spread(amount: Range) -> str:
    """`12.4 (8.1-40)`; the bounds are left out where they are the same."""
    if amount.low == amount.high:
        return short(amount.likely)
    return f"{short(amount.likely)} ({short(amount.low)}-{short(amount.high)})"


def duration(seconds: float) -> str:
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{_two(seconds / size)} {unit}"
    return f"{_two(seconds)} s"


def _two(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
