"""The ledger: one JSON line for each settled request, appended at once and never rewritten.

A process killed at any moment loses only what was in flight; a machine that loses power may lose
the last second. One process writes at a time: the job's claim sees to that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from runtime.files import write_atomic
from runtime.llms.base import Failure, Outcome, Reply, Request, Usage

if TYPE_CHECKING:
    from runtime.llms.purse import Purse

NAME = "ledger.jsonl"
SYNC_S = 1.0  # an fsync for each line would cost more than many replies do


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a ledger. `cost_usd` is None where any reply's price is unknown."""

    replies: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None

    def figures(self) -> dict[str, Any]:
        """For a job's report."""
        return {
            "requests": self.replies,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "dollars": self.cost_usd,
        }


def encode(request: Request, key: str, outcome: Outcome, attempts: int) -> dict[str, Any]:
    """The line of a settled request."""
    line: dict[str, Any] = {"id": request.id, "key": key, "attempts": attempts, "time": round(time.time(), 3)}
    if isinstance(outcome, Failure):
        return {**line, "failure": {"kind": outcome.kind, "message": outcome.message}}
    return {
        **line,
        "reply": outcome.text,
        "finish_reason": outcome.finish_reason,
        "input_tokens": outcome.usage.input_tokens,
        "output_tokens": outcome.usage.output_tokens,
        "model": outcome.model,
        "latency_s": round(outcome.latency_s, 4),
        "cost_usd": outcome.cost_usd,
        **({} if outcome.logprobs is None else {"logprobs": outcome.logprobs}),
    }


def decode(line: dict[str, Any]) -> Outcome:
    """What a line says was the outcome."""
    if "failure" in line:
        return Failure(line["failure"]["kind"], line["failure"]["message"])
    usage = Usage(line.get("input_tokens", 0), line.get("output_tokens", 0))
    return Reply(
        line["reply"],
        line.get("finish_reason", "stop"),
        usage,
        line.get("model", ""),
        line.get("latency_s", 0.0),
        line.get("cost_usd"),
        None if (told := line.get("logprobs")) is None else tuple((token, p) for token, p in told),
    )


def _readable(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
        decode(line)
        return {**line, "key": str(line["key"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class Ledger:
    """The settled requests of one job. Opening repairs what a crash left behind."""

    def __init__(self, path: Path, purse: Purse | None = None) -> None:
        self.path = path
        self.purse = purse  # where the dollars of its replies are taken from
        self.outcomes: dict[str, Outcome] = {}  # content key -> the last outcome
        path.parent.mkdir(parents=True, exist_ok=True)
        self._load()
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._synced = time.monotonic()

    def _load(self) -> None:
        """Read all lines; torn or damaged ones are dropped, and what they settled is asked again."""
        raw = self.path.read_bytes() if self.path.exists() else b""
        whole, _, torn = raw.rpartition(b"\n")
        rows = whole.split(b"\n") if whole else []
        lines = [(row, _readable(row)) for row in rows]
        for _, line in lines:
            if line is not None:
                self.outcomes[line["key"]] = decode(line)
                self._pay(self.outcomes[line["key"]])
        kept = [row for row, line in lines if line is not None]
        if torn or len(kept) < len(rows):
            write_atomic(self.path, "".join(row.decode() + "\n" for row in kept))

    def reply(self, key: str) -> Reply | None:
        """The recorded reply to a content key; a recorded failure counts for nothing."""
        found = self.outcomes.get(key)
        return found if isinstance(found, Reply) else None

    def append(self, request: Request, key: str, outcome: Outcome, attempts: int) -> None:
        """Settle a request: one write, so that a killed process leaves a whole line or none."""
        self.outcomes[key] = outcome
        self._pay(outcome)
        left = (json.dumps(encode(request, key, outcome, attempts), ensure_ascii=False) + "\n").encode()
        while left:
            left = left[os.write(self._handle, left) :]
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def _pay(self, outcome: Outcome) -> None:
        if self.purse is not None and isinstance(outcome, Reply):
            self.purse.own += outcome.cost_usd or 0.0

    def sync(self) -> None:
        os.fsync(self._handle)
        self._synced = time.monotonic()

    def totals(self) -> Totals:
        replies = [o for o in self.outcomes.values() if isinstance(o, Reply)]
        costs = [r.cost_usd for r in replies]
        return Totals(
            replies=len(replies),
            input_tokens=sum(r.usage.input_tokens for r in replies),
            output_tokens=sum(r.usage.output_tokens for r in replies),
            cost_usd=None if None in costs else sum(c for c in costs if c is not None),
        )

    def copy_to(self, folder: Path) -> None:
        """Put the ledger into an artifact."""
        self.sync()
        shutil.copyfile(self.path, folder / NAME)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        os.close(self._handle)
