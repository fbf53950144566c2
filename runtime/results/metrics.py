"""What is known of each score: its unit, its digits, and how one prompt counts towards it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """A field of metrics.json. `score` gives a prompt's share of it, in the metric's own unit."""

    field: str
    title: str
    unit: str = ""
    decimals: int = 2
    error_field: str = ""  # where metrics.json holds its standard error
    score: Callable[[Item], float | None] | None = None

    @property
    def is_percent(self) -> bool:
        return self.unit == "%"

    def amount(self, words: str) -> str:
        """A difference in words: `3.1 points`, `12 characters`."""
        if self.field == "win_rate":
            return f"{words} points"
        return f"{words} points of {self.title}" if self.is_percent else f"{words} {self.unit or self.title}"


def _times(item: Item, name: str, factor: float) -> float | None:
    value = item.get(name)
    return None if value is None else factor * float(value)


def _discrete(item: Item) -> float | None:
    """AlpacaEval's discrete win: a draw is exactly one half."""
    win = item.get("win")
    return None if win is None else 50.0 if win == 0.5 else 100.0 * (win > 0.5)


KNOWN = {
    metric.field: metric
    for metric in (
        Metric(
            "win_rate",
            "win rate",
            "%",
            1,
            error_field="standard_error",
            score=lambda item: _times(item, "win", 100.0),
        ),
        Metric(
            "length_controlled_winrate",
            "length-controlled win rate",
            "%",
            1,
            error_field="length_controlled_se",
        ),
        Metric("discrete_win_rate", "discrete win rate", "%", 1, score=_discrete),
        Metric(
            "accuracy",
            "accuracy",
            "%",
            1,
            error_field="accuracy_se",
            score=lambda item: _times(item, "correct", 100.0),
        ),
        Metric("reward", "reward", error_field="reward_se", score=lambda item: _times(item, "reward", 1.0)),
        Metric("margin", "margin", error_field="margin_se", score=lambda item: _times(item, "margin", 1.0)),
        Metric("avg_length", "length", "characters", 0, score=lambda item: _times(item, "length", 1.0)),
        Metric("n_wins", "wins", decimals=0),
        Metric("n_wins_base", "losses", decimals=0),
        Metric("n_draws", "draws", decimals=0),
        Metric("n_total", "prompts judged", decimals=0),
    )
}


def metric_of(field: str) -> Metric:
    """What is known of a field; of one that another stage brought, only that it is a number."""
    known = KNOWN.get(field)
    if known:
        return known
    title = field.replace("_", " ")
    if field.endswith("win_rate"):
        return Metric(field, title, "%", 1)
    whole = field.endswith(("_mode", "_argmin", "_argmax"))  # which of several, not how much
    return Metric(field, title, decimals=0 if whole else 2)
