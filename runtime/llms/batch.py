"""Asks in batches: at half the price, within a day. What is sent is written down before it is sent.

A batch is meant (written down, its dollars set aside), made, waited for, and settled when the ledger holds
its rows. A run that is killed in between leaves its batches to the next one, which finds them again, also
those of which nobody knows whether they were made: no row is paid twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from runtime.declare import LLM
from runtime.llms.base import Failure, Fatal, Reply, Request, Retryable, Skipped, Usage
from runtime.llms.batch_log import NAME, Batch, BatchLog, new_token
from runtime.llms.batch_vendor import (
    Answer,
    Cancelled,
    Found,
    Gone,
    QueueFull,
    Row,
    State,
    Vendor,
    make_vendor,
)
from runtime.llms.client import (
    FEWEST_TO_GIVE_UP,
    GRACE_S,
    PER_ITEM,
    Progress,
    addressed,
    backoff_s,
    cost_usd,
    fails_again,
    limits_of,
)
from runtime.llms.ledger import Ledger

FIRST_POLL_S, LONGEST_POLL_S, SLOWER = 5.0, 120.0, 1.5
LANDING_S = 60.0  # a batch of whose making nothing was heard may still appear so long after
SILENCES = 150  # attempts in a row to hear of a batch: about an hour
READINGS = 3  # of results with damaged lines

T = TypeVar("T")


class _Stopped(Exception):
    """The run is ending."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows that make a batch, by content key."""

    token: str
    rows: Mapping[str, Row]


async def ask_in_batches(
    declaration: LLM, todo: Sequence[tuple[str, Request]], ledger: Ledger, tell: Progress, stop: asyncio.Event
) -> None:
    """Settle what is to do, as far as batches can before `stop`. Raises Fatal.

    Where the spec says `live` now, batches under way are ended, what they answered is kept, and nothing new
    is sent.
    """
    vendor = make_vendor(declaration)
    try:
        await _Run(declaration, vendor, dict(todo), ledger, tell, stop).go()
    finally:
        await vendor.close()


class _Run:
    """One pass over the requests that have no reply yet."""

    def __init__(
        self,
        declaration: LLM,
        vendor: Vendor,
        todo: Mapping[str, Request],
        ledger: Ledger,
        tell: Progress,
        stop: asyncio.Event,
    ) -> None:
        self.declaration = declaration
        # A batch that is ended because the spec says `live` now has cost half all the same.
        self.batched = declaration.model_copy(update={"mode": "batch"})
        self.vendor = vendor
        self.todo = todo
        self.ledger = ledger
        self.tell = tell
        self.stop = stop
        self.sending = getattr(declaration, "mode", "live") == "batch"
        self.attempts = limits_of(declaration).attempts
        self.log = BatchLog(ledger.path.with_name(NAME))
        self.states: dict[str, State] = {}  # token -> what was last heard of a batch under way
        self.settled: set[str] = set()
        self.failed = 0
        self.fatal: Fatal | None = None

    async def go(self) -> None:
        work = asyncio.create_task(self._all())
        stopping = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():  # what is being sent shall be known by its id
                await asyncio.wait([work], timeout=GRACE_S)
            if work.done():
                await work
        finally:
            for task in (work, stopping):
                task.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
        if self.fatal:
            raise self.fatal

    async def _all(self) -> None:
        left = list(self.log.open.values())
        taken = {key for batch in left for key in batch.rows}
        async with asyncio.TaskGroup() as self.group:
            for batch in left:
                self._begin(self._resume(batch))
            self._begin(self._send([key for key in self.todo if key not in taken]))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.group.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """What ends one batch ends no other: they are paid for."""
        try:
            await work
        except _Stopped:
            pass
        except Gone as error:
            self.fatal = self.fatal or Fatal(
                f"{error}\nAsk with the key that made it. To give it up, and ask its rows again, remove "
                f"{self.ledger.path.with_name(NAME)}."
            )
        except Fatal as error:
            self.fatal = self.fatal or error

    # ------------------------------------------------------------ making

    async def _resume(self, batch: Batch) -> None:
        """Go on with a batch of an earlier run."""
        if self.ledger.purse is not None:
            self.ledger.purse.owe(batch.usd)
        if not batch.id:
            found = await self._find(batch)
            if not found:
                self._drop(batch)
                return await self._send([key for key in batch.rows if key in self.todo])
            batch = self.log.made(batch, found)
        needless = all(self.ledger.is_shared(key) for key in batch.rows if key in self.todo)
        if (needless or not self.sending) and not batch.cancelled:
            batch = self.log.cancel(batch)
            with suppress(Retryable, Skipped):  # it may have ended
                await self.vendor.cancel(batch.id)
        await self._follow(batch)

    async def _send(self, keys: Sequence[str]) -> None:
        if not self.sending:
            return
        keys = [key for key in keys if not self._take_shared(key)]
        for chunk in self._chunks(keys):
            if self.fatal or self.stop.is_set():
                return
            self._begin(self._follow(await self._make(chunk)))

    def _take_shared(self, key: str) -> bool:
        """Whether another job was told it meanwhile, so that it is settled."""
        found = self.ledger.settle_shared(key, self.todo[key]) is not None
        if found:
            self.settled.add(key)
        return found

    def _chunks(self, keys: Sequence[str]) -> Iterator[_Chunk]:
        """Rows, as many at a time as the provider takes."""
        token, rows, size = new_token(), dict[str, Row](), 0
        for key in keys:
            asked = addressed(self.declaration, self.todo[key])
            row = self.vendor.row(f"{token}-{len(rows)}", asked)
            bytes_ = len(json.dumps(row)) + 2
            if rows and (len(rows) == self.vendor.most_rows or size + bytes_ > self.vendor.most_bytes):
                yield _Chunk(token, rows)
                token, rows, size = new_token(), {}, 0
                row = self.vendor.row(f"{token}-0", asked)
            rows[key] = row
            size += bytes_
        if rows:
            yield _Chunk(token, rows)

    async def _make(self, chunk: _Chunk) -> Batch:
        """Make a batch, once, however often the provider has to be asked."""
        batch = self._mean(chunk)
        for attempt in range(1, self.attempts + 1):
            try:
                return self.log.made(batch, await self.vendor.make(chunk.token, list(chunk.rows.values())))
            except Skipped as error:
                self._drop(batch)
                raise Fatal(f"the provider refused a batch: {error}") from error
            except Fatal:
                self._drop(batch)
                raise
            except Retryable as error:
                problem = error
            await self._rest(backoff_s(attempt, problem))
            found = "" if problem.kind == "rate_limit" else await self._find(batch)
            if found:
                return self.log.made(batch, found)
        self._drop(batch)
        raise Fatal(
            f"no batch could be made: {problem.kind}: {problem}\nRun again when the provider is well."
        )

    def _mean(self, chunk: _Chunk) -> Batch:
        """Set a batch's dollars aside and write it down. Raises Fatal where the budget has no room for it."""
        purse, usd = self.ledger.purse, 0.0
        if purse is not None:
            usd = sum(purse.most(self.declaration, self.todo[key]) for key in chunk.rows)
            purse.take(usd, "batch")
        return self.log.meant(chunk.token, list(chunk.rows), usd)

    async def _find(self, batch: Batch) -> str:
        """The id of a batch of which nobody knows whether it was made; empty where it was not."""
        await self._rest(LANDING_S)

        def search() -> Awaitable[Found]:
            return self.vendor.find(batch.token, len(batch.rows), batch.time, self.log.ids)

        pause = FIRST_POLL_S
        while not (found := await self._heard(search)).id and not found.certain:
            await self._rest(pause)
            pause = min(pause * SLOWER, LONGEST_POLL_S)
        return found.id

    # ------------------------------------------------------------ waiting

    async def _follow(self, batch: Batch) -> None:
        """Wait for a batch and settle it."""
        state = await self._wait(batch)
        if isinstance(state.problem, Fatal):
            self._drop(batch)
            raise state.problem
        if state.problem is not None:
            return await self._make_room(batch, state.problem)
        answers = await self._read(batch)
        self._let_go(batch)
        await self._settle(batch, state, answers)

    async def _wait(self, batch: Batch) -> State:
        pause = FIRST_POLL_S
        while True:
            state = await self._heard(lambda: self.vendor.look(batch.id))
            self.states[batch.token] = state
            self._say()
            if state.ended:
                return state
            await self._rest(pause)
            pause = min(pause * SLOWER, LONGEST_POLL_S)

    async def _heard(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the provider says, asked again while it cannot. Raises Fatal where it is silent for long."""
        for attempt in range(1, SILENCES + 1):
            try:
                return await ask()
            except Retryable as error:
                problem: Exception = error
                await self._rest(backoff_s(attempt, error))
            except Skipped as error:
                problem = error
                break
        raise Fatal(
            f"nothing is to be heard of a batch: {problem}\n"
            "Run again when the provider is well: the batch is kept there, and found again."
        ) from problem

    async def _make_room(self, batch: Batch, problem: QueueFull) -> None:
        """Send again what was too much at once: after another batch, or, where there is none, in halves."""
        self._drop(batch)
        keys = [key for key in batch.rows if key in self.todo]
        others = self._at_work()
        if not others and len(keys) == 1:
            raise Fatal(f"one request alone is too much for the account's queue: {problem}")
        if not others:
            await self._send(keys[: len(keys) // 2])
            keys = keys[len(keys) // 2 :]
            others = self._at_work()
        while others and others <= self._at_work():
            await self._rest(FIRST_POLL_S)
        await self._send(keys)

    def _at_work(self) -> set[str]:
        return {batch.token for batch in self.log.open.values() if batch.id}

    # ------------------------------------------------------------ settling

    async def _read(self, batch: Batch) -> dict[str, Answer]:
        """Answers by content key. Replies go to the ledger as they come; doubled and unknown names count for
        nothing."""
        answers: dict[str, Answer] = {}
        for _ in range(READINGS):
            if await self._heard(lambda: self._read_once(batch, answers)):
                break
        return answers

    async def _read_once(self, batch: Batch, answers: dict[str, Answer]) -> bool:
        """Adds to the answers; returns whether every line could be read."""
        whole = True
        async with aclosing(self.vendor.results(batch.id)) as results:
            async for name, answer in results:
                whole = whole and bool(name)
                key = _key_of(name, batch)
                if key in self.todo and not isinstance(answers.get(key), Reply):
                    answers[key] = self._kept(key, answer)
        return whole

    def _kept(self, key: str, answer: Answer) -> Answer:
        """An answer; a reply is in the ledger then."""
        if isinstance(answer, Reply):
            text = answer.text.encode("utf-8", "replace").decode()
            answer = replace(answer, text=text, cost_usd=cost_usd(self.batched, answer.usage))
            self.ledger.append(self.todo[key], key, answer, self.log.tries[key] + 1)
        return answer

    async def _settle(self, batch: Batch, state: State, answers: Mapping[str, Answer]) -> None:
        """Record what failed, and send again what may still succeed."""
        rows = [key for key in batch.rows if key in self.todo]
        again: list[str] = []
        failures: list[Failure] = []
        cancelled = 0
        for key in rows:
            answer = answers.get(key) or Retryable("missing", "the results have no such row")
            if isinstance(answer, Reply):
                self.settled.add(key)
            elif isinstance(answer, Cancelled) or (state.cancelled and key not in answers):
                cancelled += 1
                again.append(key)
            elif isinstance(answer, Fatal):
                self.fatal = self.fatal or answer
                again.append(key)
            elif isinstance(answer, Retryable) and self.log.tries[key] + 1 < self.attempts:
                again.append(key)
            else:
                assert isinstance(answer, Retryable | Skipped)
                known = fails_again(key, self.ledger)
                failure = self._fail(key, answer)
                if not known:
                    failures.append(failure)
        self.ledger.sync()
        self.log.settled(batch, again)
        self._say()
        self._suspect(rows, failures)
        if cancelled and self.sending and not batch.cancelled:
            raise Fatal(
                f"the batch {batch.id} was cancelled: {cancelled} of its {len(rows)} rows were not asked\n"
                "What was answered is kept: run or submit again to ask the others."
            )
        await self._send([] if self.fatal else again)

    def _fail(self, key: str, problem: Retryable | Skipped) -> Failure:
        usage = problem.usage if isinstance(problem, Skipped) else Usage()
        cost = cost_usd(self.batched, usage) if usage != Usage() else None
        failure = Failure(problem.kind, str(problem), usage, cost)
        if self.ledger.outcomes.get(key) != failure:
            self.ledger.append(self.todo[key], key, failure, self.log.tries[key] + 1)
        self.settled.add(key)
        self.failed += 1
        return failure

    def _suspect(self, rows: Sequence[str], failures: Sequence[Failure]) -> None:
        """Give up where all rows failed, and for no reason of their own: so would the others."""
        many = len(rows) == len(self.todo) or len(rows) >= FEWEST_TO_GIVE_UP
        nothing = failures and self.failed == len(self.settled)
        if many and nothing and all(failure.kind not in PER_ITEM for failure in failures):
            last = failures[-1]
            self.fatal = self.fatal or Fatal(
                f"every request failed; the last one: {last.kind}: {last.message}\n"
                "Mend the cause and run again: what was answered is kept, the failed ones are asked again."
            )

    # ------------------------------------------------------------ small things

    def _drop(self, batch: Batch) -> None:
        """A batch that is none: nothing of it was asked."""
        self.log.dropped(batch)
        self._let_go(batch)

    def _let_go(self, batch: Batch) -> None:
        """Its dollars are settled, row by row, or were never spent."""
        self.states.pop(batch.token, None)
        if self.ledger.purse is not None:
            self.ledger.purse.give_back(batch.usd)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self.stop.wait()
        if self.stop.is_set():
            raise _Stopped

    def _say(self) -> None:
        failed = f"{self.failed} failed" if self.failed else ""
        under_way = [state for state in self.states.values() if not state.ended]
        several = f"{len(under_way)} batch{'es' * (len(under_way) > 1)}"
        waits = f"{several} {under_way[0].words}" if under_way else ""
        done = len(self.settled) + sum(state.done for state in under_way)
        words = ", ".join(filter(None, (failed, self.ledger.money, waits)))
        self.tell(min(done, len(self.todo)), len(self.todo), words)


def _key_of(name: str, batch: Batch) -> str:
    """The content key that a row's name stands for; empty where it is none of this batch."""
    token, _, number = name.partition("-")
    known = token == batch.token and number.isdecimal() and int(number) < len(batch.rows)
    return batch.rows[int(number)] if known else ""
