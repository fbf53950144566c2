"""The ledger: one JSON line for each settled request, appended at once and never rewritten.

A process killed at any moment loses only what was in flight; a machine that loses power may lose
the last second. One process writes at a time: the job's claim sees to that.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from runtime.declare import LLM
from runtime.files import sync
from runtime.llms.base import Failure, Outcome, Reply, Request, Usage
from runtime.llms.lines import Lines, unstored
from runtime.rows import RowsOnDisk

if TYPE_CHECKING:
    from runtime.llms.purse import Purse
    from runtime.llms.shared import Answers, Shelf

NAME = "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over what a job asked, refusals that were paid included; `shared` counts the other replies.

    `cost_usd` is None where any price is unknown.
    """

    replies: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    shared: int = 0

    def figures(self) -> dict[str, Any]:
        """For a job's report."""
        return {
            "requests": self.replies,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "dollars": self.cost_usd,
            **({"shared": self.shared} if self.shared else {}),
        }


def encode(request: Request, key: str, outcome: Outcome, attempts: int) -> dict[str, Any]:
    """The line of a settled request."""
    line: dict[str, Any] = {"id": request.id, "key": key, "attempts": attempts, "time": round(time.time(), 3)}
    paid = {
        "input_tokens": outcome.usage.input_tokens,
        "output_tokens": outcome.usage.output_tokens,
        "cost_usd": outcome.cost_usd,
        **({"cached_tokens": outcome.usage.cached_tokens} if outcome.usage.cached_tokens else {}),
    }
    if isinstance(outcome, Failure):
        failure = {"kind": outcome.kind, "message": outcome.message}
        return {**line, "failure": failure, **(paid if outcome.usage != Usage() else {})}
    return {
        **line,
        "reply": outcome.text,
        "finish_reason": outcome.finish_reason,
        **paid,
        "model": outcome.model,
        "latency_s": round(outcome.latency_s, 4),
        **({"raw": outcome.raw} if outcome.raw else {}),
        **({} if outcome.logprobs is None else {"logprobs": outcome.logprobs}),
    }


def decode(line: dict[str, Any]) -> Outcome:
    """What a line says was the outcome."""
    counted = ("input_tokens", "output_tokens", "cached_tokens")
    usage = Usage(*(line.get(name, 0) for name in counted))
    if "failure" in line:
        return Failure(line["failure"]["kind"], line["failure"]["message"], usage, line.get("cost_usd"))
    return Reply(
        line["reply"],
        line.get("finish_reason", "stop"),
        usage,
        line.get("model", ""),
        line.get("latency_s", 0.0),
        line.get("cost_usd"),
        logprobs=None if (told := line.get("logprobs")) is None else tuple((token, p) for token, p in told),
    )


def readable(raw: bytes) -> dict[str, Any] | None:
    """A line, its key a text; None for one that is damaged."""
    try:
        line = json.loads(raw)
        decode(line)
        return {**line, "key": str(line["key"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass(slots=True)
class Tally:
    """Sums over what was asked and paid, over all tries; `unpriced` counts what has no price."""

    replies: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure) and outcome.usage == Usage():
            return
        self.replies += isinstance(outcome, Reply)
        self.input_tokens += outcome.usage.input_tokens
        self.output_tokens += outcome.usage.output_tokens
        self.cost_usd += outcome.cost_usd or 0.0
        self.unpriced += outcome.cost_usd is None


class Ledger:
    """The settled requests of one job. Opening repairs what a crash left behind."""

    def __init__(self, path: Path, purse: Purse | None = None, shelf: Shelf | None = None) -> None:
        self.path = path
        self.purse = purse  # where the dollars of its replies are taken from
        self.shelf = shelf  # where answers are shared with other jobs
        self.answers: Answers | None = None  # those of the model that is asked now
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if not self._read():
            self._mend()
            self._read()
        self._pay(self.usd)
        self._lines = Lines(path)

    def _read(self) -> bool:
        """Take in all lines; False where one is torn or damaged."""
        self.outcomes = RowsOnDisk(self.path, "key", decode)  # the last one of each content key
        self._tally, self._shared = Tally(), 0
        place = 0
        with self.path.open("rb") as file:
            for raw in file:
                line = readable(raw) if raw.endswith(b"\n") else None
                if line is None:
                    return False
                self._note(line["key"], decode(line), place, line.get("attempts", 1))
                place += len(raw)
        return True

    def _mend(self) -> None:
        """Drop torn and damaged lines: what they settled is asked again."""
        mended = self.path.with_name(f".{self.path.name}.mended")
        with self.path.open("rb") as file, mended.open("wb") as kept:
            kept.writelines(raw for raw in file if raw.endswith(b"\n") and readable(raw) is not None)
        sync(mended)
        mended.replace(self.path)
        sync(self.path.parent)

    def _note(self, key: str, outcome: Outcome, place: int, attempts: int) -> None:
        """Take in the line at a place of the file."""
        self.outcomes.place(key, place)
        if attempts:
            self._tally.count(outcome)
        else:
            self._shared += 1

    def reply(self, key: str) -> Reply | None:
        """The recorded reply to a content key; a recorded failure counts for nothing."""
        found = self.outcomes.get(key)
        return found if isinstance(found, Reply) else None

    def append(self, request: Request, key: str, outcome: Outcome, attempts: int) -> None:
        """Settle a request at once; no attempts: somebody else had asked it, and shares the answer.

        Raises Fatal where the disk is full.
        """
        line = encode(request, key, outcome, attempts)
        with unstored():
            self._note(key, outcome, self._lines.append(line), attempts)
            self._pay(outcome.cost_usd or 0.0)
            if self.answers is not None and attempts and isinstance(outcome, Reply):
                self.answers.add(key, line)

    def _pay(self, usd: float) -> None:
        if self.purse is not None:
            self.purse.own += usd

    @property
    def usd(self) -> float:
        """Dollars spent so far, over all tries."""
        return self._tally.cost_usd

    def totals(self) -> Totals:
        told = self._tally
        cost = None if told.unpriced else told.cost_usd
        return Totals(told.replies, told.input_tokens, told.output_tokens, cost, self._shared)

    def sync(self) -> None:
        self._lines.sync()

    @contextmanager
    def sharing(
        self, declaration: LLM, todo: Sequence[tuple[str, Request]], but: Container[str] = ()
    ) -> Iterator[None]:
        """Settle what other jobs share the answers of, all but some content keys, and share what comes."""
        self.answers = self.shelf.of(declaration, todo) if self.shelf is not None and todo else None
        try:
            for key, request in todo:
                if key not in but:
                    self.settle_shared(key, request)
            yield
        finally:
            if self.answers is not None:
                self.answers.close()
            self.answers = None

    def settle_shared(self, key: str, request: Request) -> Reply | None:
        """Settle a request of which another job shares the answer, and return that."""
        reply = self.answers.take(key) if self.answers is not None else None
        if reply is not None:
            self.append(request, key, reply, 0)
        return reply

    def is_shared(self, key: str) -> bool:
        """Whether another job shares the answer to a request."""
        return self.answers is not None and self.answers.knows(key)

    @property
    def money(self) -> str:
        """Dollars in words, for a line of progress; empty where none were spent."""
        of = self.purse.words if self.purse is not None else ""
        return f"${self.usd:.2f}{of}" if self.usd else ""

    def copy_to(self, folder: Path) -> None:
        """Put the ledger into an artifact."""
        self.sync()
        shutil.copyfile(self.path, folder / NAME)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        if self.purse is not None:
            self.purse.close()
