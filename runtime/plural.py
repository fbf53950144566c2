"""A number with its noun."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """`1 node`, `1,261 nodes`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
