"""Asks every request that the ledger has no reply to: concurrency, rates, retries and time-outs.

The one place that retries: providers try once, and their SDKs are told not to retry. A request is
settled by a reply or by a failure that says why; both go to the ledger at once.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from types import FrameType
from typing import Any

from runtime.declare import LLM, AnthropicLLM, Limits, OpenAiLLM
from runtime.job import JobError
from runtime.llms.base import (
    Allowed,
    Failure,
    Fatal,
    Message,
    Outcome,
    Provider,
    Reply,
    Request,
    Retryable,
    Skipped,
    Usage,
)
from runtime.llms.batch_log import in_batches, under_way
from runtime.llms.ledger import Ledger
from runtime.llms.limiter import Limiter, Reservation, Window, estimate_tokens, limiter_of
from runtime.llms.registry import make_provider
from runtime.signals import STOPS

Progress = Callable[[int, int, str], None]

BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
LONGEST_RETRY_AFTER_S = 600.0  # a server that asks for more gets asked again after this
FEWEST_TO_GIVE_UP = 20  # failures in a row after which the provider, not the request, is at fault
GRACE_S = 5.0  # for what is in flight when the run has to stop: those answers are paid for
# Failures that say nothing of the provider.
PER_ITEM = frozenset({"refused", "content_filter", "not_recorded", "too_long"})


def limits_of(declaration: LLM) -> Limits:
    """The declared limits; a provider in this process takes a batch at a time and is tried once."""
    declared: Limits | None = getattr(declaration, "limits", None)
    if declared is not None:
        return declared
    return Limits(concurrency=getattr(declaration, "batch_size", 1), timeout_s=86_400, attempts=1)


def cost_usd(declaration: LLM, usage: Usage) -> float | None:
    """What a reply cost; None where a price is not declared."""
    if not isinstance(declaration, OpenAiLLM | AnthropicLLM):
        return None
    read, write = declaration.usd_per_million_input, declaration.usd_per_million_output
    if read is None or write is None:
        return None
    cached = declaration.usd_per_million_cached_input
    usd = usage.input_tokens * read + usage.output_tokens * write
    if cached is not None:
        usd -= usage.cached_tokens * (read - cached)
    return usd / 1e6 * declaration.price_share


def addressed(declaration: LLM, request: Request) -> Request:
    """The request as sent: the declared system prompt goes before the template's own."""
    declared: str | None = getattr(declaration, "system", None)
    if not declared:
        return request
    own = [m.content for m in request.messages if m.role == "system"]
    others = tuple(m for m in request.messages if m.role != "system")
    return replace(request, messages=(Message("system", "\n\n".join([declared, *own])), *others))


def backoff_s(attempt: int, problem: Retryable) -> float:
    """Seconds before the next try: doubling, jittered, and never sooner than the server asked."""
    longest = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1))
    asked = min(problem.retry_after or 0.0, LONGEST_RETRY_AFTER_S)
    return asked + random.uniform(longest / 2, longest) if not asked else asked + random.uniform(0, 0.1)


def fails_again(key: str, ledger: Ledger) -> bool:
    """Whether a request has failed before, and others were answered: it is at fault, not the provider."""
    return key in ledger.outcomes and ledger.totals().replies > 0


def _limiter(declaration: LLM, limits: Limits) -> Limiter:
    rates = limits.requests_per_minute, limits.tokens_per_minute
    if not isinstance(declaration, OpenAiLLM | AnthropicLLM):
        return Limiter(*rates)
    return limiter_of(declaration.provider, declaration.base_url, declaration.model, *rates)


class _Stopped(Exception):
    """The run is ending, so nothing new is tried."""


class _Run:
    """One pass over the requests that have no reply yet."""

    def __init__(
        self,
        declaration: LLM,
        provider: Provider,
        todo: Sequence[tuple[str, Request]],
        ledger: Ledger,
        tell: Progress,
    ) -> None:
        self.declaration = declaration
        self.provider = provider
        self.todo = iter(todo)
        self.total = len(todo)
        self.ledger = ledger
        self.tell = tell
        self.limits = limits_of(declaration)
        self.limiter = _limiter(declaration, self.limits)
        self.window = Window(self.limits.concurrency)
        self.left = asyncio.Condition()
        self.stop = asyncio.Event()
        self.fatal: Fatal | None = None
        self.settled = self.failed = self.in_a_row = 0

    async def go(self) -> None:
        """Ask everything. Raises Fatal; whatever was settled until then is in the ledger."""
        stopping: asyncio.Future[Any] = asyncio.create_task(self.stop.wait())
        workers = [
            asyncio.create_task(self._worker()) for _ in range(min(self.limits.concurrency, self.total))
        ]
        try:
            everybody = asyncio.create_task(asyncio.wait(workers))
            await asyncio.wait([everybody, stopping], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(workers, timeout=GRACE_S)
        finally:
            for task in (*workers, stopping):
                task.cancel()
            ends = await asyncio.gather(*workers, stopping, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end
        if self.fatal:
            raise self.fatal

    async def _worker(self) -> None:
        for key, request in self.todo:
            if self.stop.is_set():
                return
            try:
                await self._work_off(key, request)
            except _Stopped:
                return
            except Fatal as error:
                self.fatal = self.fatal or error
                self.stop.set()
                return
            except Exception:  # a defect; what the others have in flight is paid for
                self.stop.set()
                raise

    async def _work_off(self, key: str, request: Request) -> None:
        if shared := self.ledger.settle_shared(key, request):  # another job was told it meanwhile
            return self._count(shared)
        outcome, attempts = await self._settle(addressed(self.declaration, request))
        again = fails_again(key, self.ledger)
        self.ledger.append(request, key, outcome, attempts)
        self._count(outcome, again=again)

    async def _settle(self, request: Request) -> tuple[Outcome, int]:
        """Ask until there is a reply, or no hope of one; also says how often it was asked."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._in_window(request), attempt
            except Skipped as error:
                cost = cost_usd(self.declaration, error.usage) if error.usage != Usage() else None
                return Failure(error.kind, str(error), error.usage, cost), attempt
            except Retryable as error:
                delay = self._delay(attempt, error)  # what the server asks of all, they do all the same
                if attempt >= self.limits.attempts:
                    return Failure(error.kind, str(error)), attempt
                await self._rest(delay)

    async def _in_window(self, request: Request) -> Reply:
        """One attempt, made when fewer are in flight than the server lately bore."""
        async with self.left:
            await self.left.wait_for(lambda: self.window.room() or self.stop.is_set())
        if self.stop.is_set():
            raise _Stopped
        number, answered, refused = self.window.enter(), False, False
        try:
            reply = await self._attempt(request)
            answered = True
            return reply
        except Retryable as error:
            refused = error.kind == "rate_limit"
            raise
        finally:
            self.window.leave(number, answered=answered, refused=refused)
            async with self.left:
                self.left.notify_all()

    async def _attempt(self, request: Request) -> Reply:
        reserved = await self._turn(request)
        started, used = time.monotonic(), None
        try:
            with self._paid(request):
                async with asyncio.timeout(self.limits.timeout_s):
                    reply = await self.provider.ask(request)
            used = reply.usage
            self.limiter.learn(reply.allowed or Allowed())
        except TimeoutError as error:
            words = f"no whole reply within {self.limits.timeout_s:g} s (`timeout_s`)"
            raise Retryable("timeout", words) from error
        except Skipped as error:
            used = error.usage if error.usage != Usage() else None
            raise
        except Retryable as error:
            self.limiter.learn(error.allowed or Allowed())
            raise
        finally:
            self.limiter.settle(reserved, used)
        # A reply with half a surrogate pair could not be written to any file.
        text = reply.text.encode("utf-8", "replace").decode()
        return replace(
            reply,
            text=text,
            latency_s=time.monotonic() - started,
            cost_usd=cost_usd(self.declaration, reply.usage),
            allowed=None,
        )

    async def _turn(self, request: Request) -> Reservation:
        """Wait until the rates and the server's pauses let a request start."""
        tokens, now = estimate_tokens(request), time.monotonic()
        while True:
            reserved = self.limiter.reserve(now, tokens)
            if reserved.start > now:
                await self._rest(reserved.start - now)
                now = time.monotonic()
            if self.limiter.held_until <= now:
                return reserved
            self.limiter.cancel(reserved)  # a 429 came meanwhile: wait for a new turn

    def _paid(self, request: Request) -> AbstractContextManager[None]:
        """Holds the dollars that a request may cost, where there is a budget. Raises Fatal."""
        purse = self.ledger.purse
        return purse.holding(self.declaration, request) if purse is not None else nullcontext()

    def _delay(self, attempt: int, problem: Retryable) -> float:
        delay = backoff_s(attempt, problem)
        if problem.retry_after:
            self.limiter.hold(time.monotonic() + min(problem.retry_after, LONGEST_RETRY_AFTER_S))
        return delay

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        if self.stop.is_set():
            raise _Stopped

    def _count(self, outcome: Outcome, *, again: bool = False) -> None:
        self.settled += 1
        if isinstance(outcome, Reply):
            self.in_a_row = 0
        else:
            self.failed += 1
            if not again:
                self._suspect(outcome)
        self.tell(self.settled, self.total, self._words())

    def _suspect(self, failure: Failure) -> None:
        """Give up where the provider itself seems at fault: the rest would fail too, and be missed."""
        if failure.kind in PER_ITEM:
            return
        self.in_a_row += 1
        everything = self.settled == self.total and self.failed == self.total
        if everything or self.in_a_row >= max(FEWEST_TO_GIVE_UP, 2 * self.limits.concurrency):
            many = "every request" if everything else f"{self.in_a_row} requests in a row"
            self.fatal = self.fatal or Fatal(
                f"{many} failed; the last one: {failure.kind}: {failure.message}\n"
                "Mend the cause and run again: what was answered is kept, the failed ones are asked again."
            )
            self.stop.set()

    def _words(self) -> str:
        failed = f"{self.failed} failed" if self.failed else ""
        return ", ".join(filter(None, (failed, self.ledger.money)))


@contextmanager
def _signals_stop(stop: asyncio.Event) -> Iterator[list[int]]:
    """Let TERM and INT end the loop in order, and collect them.

    Python runs a plain handler wherever the loop happens to be; raised inside one of its callbacks,
    the handler's exception would be logged and lost.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    loop = asyncio.get_running_loop()
    previous = {n: signal.getsignal(n) for n in STOPS if signal.getsignal(n) is not signal.SIG_IGN}

    def note(number: int) -> None:
        caught.append(number)
        stop.set()

    for number in previous:
        loop.add_signal_handler(number, note, number)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


async def _ask(
    declaration: LLM, todo: Sequence[tuple[str, Request]], ledger: Ledger, tell: Progress
) -> list[int]:
    """Ask what is to do; returns the signals that ended it early."""
    if in_batches(declaration, ledger.path):
        from runtime.llms.batch import ask_in_batches

        with _signals_stop(stop := asyncio.Event()) as caught:
            await ask_in_batches(declaration, todo, ledger, tell, stop)
        todo = [(key, request) for key, request in todo if ledger.reply(key) is None]
        if caught or getattr(declaration, "mode", "live") == "batch" or not todo:
            return caught
    provider = make_provider(declaration)
    try:
        run = _Run(declaration, provider, todo, ledger, tell)
        with _signals_stop(run.stop) as caught:
            await run.go()
        return caught
    finally:
        await provider.close()


def _pass_on(number: int) -> None:
    """Do what the process does on this signal outside of the loop."""
    handler = signal.getsignal(number)
    frame: FrameType | None = None
    if callable(handler):
        handler(number, frame)
    else:
        signal.raise_signal(number)


def _quiet(done: int, total: int, text: str) -> None:
    pass


def ask_all(
    declaration: LLM, requests: Sequence[Request], ledger: Ledger, progress: Progress = _quiet
) -> dict[str, Outcome]:
    """The outcome of every request, by its id; equal requests are asked once.

    Only requests without a reply in the ledger are asked. Raises JobError where no further request
    can succeed; what was answered until then is in the ledger.
    """
    keys = {request.id: request.content_key() for request in requests}
    if len(keys) < len(requests):
        raise ValueError("two requests have the same id")
    distinct = {keys[request.id]: request for request in reversed(requests)}
    asked = [(key, request) for key, request in reversed(distinct.items()) if ledger.reply(key) is None]
    waiting = under_way(ledger.path)  # paid for, or about to be: what others share comes too late for them
    try:
        with ledger.sharing(declaration, asked, but=waiting):
            todo = [(key, request) for key, request in asked if ledger.reply(key) is None]
            known = len(distinct) - len(todo)

            def tell(done: int, total: int, text: str) -> None:
                progress(known + done, known + total, text)

            caught = asyncio.run(_ask(declaration, todo, ledger, tell)) if todo or waiting else []
    except Fatal as error:
        raise JobError(str(error)) from error
    for number in caught:
        _pass_on(number)
    outcomes = {key: ledger.outcomes[key] for key in distinct}
    return {id_: outcomes[key] for id_, key in keys.items()}
