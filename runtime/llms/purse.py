"""Holds a budget in dollars while requests are sent: each is set aside before, and settled after.

Several jobs of an experiment may spend at once; what the others spent is looked up from time to time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.declare import LLM, AnthropicLLM, OpenAiLLM
from runtime.llms.base import Fatal, Request
from runtime.llms.limiter import CHARACTERS_PER_TOKEN
from runtime.spending import Tails, spent
from runtime.store import Store

if TYPE_CHECKING:
    from runtime.job import Job

LOOK_EVERY_S, LOOK_SHARE = 0.5, 20.0  # at least so long, and so many times what a look took


def most_usd(declaration: LLM, request: Request) -> float | None:
    """Most that a request may cost: its text and its longest answer; None where no price is declared."""
    if not isinstance(declaration, OpenAiLLM | AnthropicLLM):
        return 0.0
    read, write = declaration.usd_per_million_input, declaration.usd_per_million_output
    if read is None or write is None:
        return None
    characters = sum(len(message.content) for message in request.messages)
    most = (characters / CHARACTERS_PER_TOKEN * read + request.max_tokens * write) / 1e6
    return most * declaration.price_share


@dataclass(slots=True)
class Purse:
    """What one job may spend of its experiment's budget. `own` is what it has spent, over all tries."""

    store: Store
    experiment: str
    key: str
    limit: float
    own: float = 0.0
    _held: float = 0.0
    _others: float = 0.0
    _due: float = 0.0
    _tails: Tails = field(default_factory=dict[Path, tuple[int, float]])

    @contextmanager
    def holding(self, declaration: LLM, request: Request) -> Iterator[None]:
        """Set a request's most dollars aside while it is asked. Raises Fatal where there is no room."""
        most = self.most(declaration, request)
        self.take(most, "request")
        try:
            yield
        finally:
            self.give_back(most)

    def most(self, declaration: LLM, request: Request) -> float:
        """Most that a request may cost. Raises Fatal where nobody knows."""
        most = most_usd(declaration, request)
        if most is None:
            raise Fatal(
                "`budget.usd` cannot be held: the llm that this job asks has no price\n"
                "State `usd_per_million_input` and `usd_per_million_output` of the llm, 0 where it is free."
            )
        return most

    def take(self, most: float, what: str) -> None:
        """Set dollars aside for a request or a batch. Raises Fatal where there is no room."""
        used = self.own + self._of_others(fresh=what == "batch")
        if most and used + self._held + most > self.limit:
            raise Fatal(
                f"over budget: of ${self.limit:.2f} the experiment has spent ${used:.4f}, ${self._held:.4f} "
                f"is on its way, and the next {what} may cost ${most:.4f}\n"
                "Raise `budget.usd` and run or submit again: what was answered is kept."
            )
        self.owe(most)

    def owe(self, most: float) -> None:
        """Set dollars aside for what is under way already, whether there is room or not."""
        self._held += most

    def give_back(self, most: float) -> None:
        """What was set aside is settled."""
        self._held -= most

    def _of_others(self, *, fresh: bool) -> float:
        """Looked up again and again, for a small share of the time; what their batches may cost counts."""
        now = time.monotonic()
        if now > self._due or fresh:
            found = spent(self.store, self.experiment, remember=True, tails=self._tails, without=self.key)
            self._others = found.usd + found.held_usd
            self._due = now + max(LOOK_EVERY_S, LOOK_SHARE * (time.monotonic() - now))
        return self._others


def purse_of(job: Job) -> Purse | None:
    """The purse of a job; None where its experiment has no budget in dollars."""
    told = job.description
    limit = (told.get("budget") or {}).get("usd")
    if limit is None:
        return None
    store = Store(job.scratch.parents[2])  # <store>/.work/<key>/scratch
    return Purse(store, told["experiment"], job.key, limit)
