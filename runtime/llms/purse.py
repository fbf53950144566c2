"""Holds a budget in dollars while requests are sent: each is set aside before, and settled after.

Several jobs of an experiment may spend at once; together they stay within its limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from runtime.declare import LLM, AnthropicLLM, OpenAiLLM
from runtime.job import SCRATCH
from runtime.llms.base import Fatal, Request
from runtime.llms.limiter import CHARACTERS_PER_TOKEN
from runtime.spending import GRANTED, Tails, spent
from runtime.store import Store

if TYPE_CHECKING:
    from runtime.job import Job

DUST = 1e-9  # dollars; sums of many small ones are no more exact
AHEAD, AHEAD_SHARE = 32, 0.01  # requests that a job may go ahead, and the share of the limit that it may


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
    """What one job may spend of its experiment's budget. `own` is what it has spent, over all tries.

    A job writes down how far it may go before it looks how far the others may: of two that do so at the same
    time, at least one sees the other. It goes some requests ahead, so as not to look before each.
    """

    store: Store
    experiment: str
    key: str
    limit: float
    own: float = 0.0
    _held: float = 0.0  # for what is on its way
    _granted: float = 0.0  # how far it may go, as the others see it
    _seen: float = 0.0  # what the others had spent at the last look
    _tails: Tails = field(default_factory=dict[Path, tuple[int, float]])

    @contextmanager
    def holding(self, declaration: LLM, request: Request) -> Iterator[None]:
        """Set a request's most dollars aside while it is asked. Raises Fatal where there is no room."""
        most = self.most(declaration, request)
        self.take(most, "request", ahead=min(AHEAD * most, AHEAD_SHARE * self.limit))
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

    def take(self, most: float, what: str, *, ahead: float = 0.0) -> None:
        """Set dollars aside for a request or a batch. Raises Fatal where there is no room."""
        needed = self.own + self._held + most
        enough = not most or needed <= self._granted
        if not (enough or self._go(needed + ahead) or self._go(needed)):
            self._refuse(most, what)
        self._held += most

    def owe(self, most: float) -> None:
        """Set dollars aside for what an earlier run has sent already, whether there is room or not."""
        self._held += most
        self._grant(max(self._granted, self.own + self._held))

    def give_back(self, most: float) -> None:
        """What was set aside is settled."""
        self._held -= most

    @property
    def words(self) -> str:
        """What the experiment has spent of its limit, as far as this job has looked."""
        return f" (all jobs: ${self.own + self._seen:.2f} of ${self.limit:.2f})"

    def close(self) -> None:
        """Keep aside only what is on its way beyond the end of this run: batches."""
        self._grant(self.own + self._held)

    def _go(self, far: float) -> bool:
        """Whether the job may spend so much in all, for all that the others may."""
        self._grant(far)
        return far + sum(self._others()) <= self.limit + DUST

    def _others(self) -> tuple[float, float]:
        """Dollars that the experiment's other jobs have spent, and those that they may yet."""
        found = spent(self.store, self.experiment, remember=True, tails=self._tails, without=self.key)
        self._seen = found.usd
        return found.usd, found.held_usd

    def _refuse(self, most: float, what: str) -> NoReturn:
        self.close()
        used, away = self._others()
        used, away = used + self.own, away + self._held
        raise Fatal(
            f"over budget: of ${self.limit:.2f} the experiment has spent ${used:.4f}, ${away:.4f} "
            f"is on its way, and the next {what} may cost ${most:.4f}\n"
            "Raise `budget.usd` and run or submit again: what was answered is kept."
        )

    def _grant(self, far: float) -> None:
        """Tell the others. In place: who opens a file on NFS sees what was last written to it, and may miss
        another of its name."""
        self._granted = far
        handle = os.open(self.store.work(self.key) / SCRATCH / GRANTED, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(handle, f"{far:30.9f}\n".encode())
        finally:
            os.close(handle)


def purse_of(job: Job) -> Purse | None:
    """The purse of a job; None where its experiment has no budget in dollars."""
    told = job.description
    limit = (told.get("budget") or {}).get("usd")
    if limit is None:
        return None
    store = Store(job.scratch.parents[2])  # <store>/.work/<key>/scratch
    return Purse(store, told["experiment"], job.key, limit)
