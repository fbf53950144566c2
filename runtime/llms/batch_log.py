"""What is known of batches at a provider, written before it is acted on: a killed job finds them again by it.

    <scratch>/batches.jsonl      one event a line
        meant    {token, rows: [content key, ...], usd, time}
        made     {token, id}
        settled  {token, again: [content key, ...]}    its results are in the ledger
        dropped  {token}                               no such batch was made, or nothing of it was asked
        cancel   {token}                               the provider was told to stop it, on purpose

Row number n of a batch is called `<token>-<n>` at the provider.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.files import read_json
from runtime.llms.lines import Lines, unstored
from runtime.store import Store

NAME = "batches.jsonl"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows by content key, the most that they may cost, and when they were meant to be sent (Unix time).

    id: the provider's name for it; empty where nobody knows whether it was made.
    """

    token: str
    rows: tuple[str, ...]
    usd: float
    time: float
    id: str = ""
    cancelled: bool = False


class _Known:
    """What the events of a log add up to."""

    def __init__(self) -> None:
        self.open: dict[str, Batch] = {}  # token -> a batch that is not settled
        self.ids: set[str] = set()  # of all batches that this job ever made
        self.tries: Counter[str] = Counter()  # content key -> settled batches that came to nothing for it

    def apply(self, event: dict[str, Any]) -> None:
        token = event["token"]
        match event["event"]:
            case "meant":
                self.open[token] = Batch(token, tuple(event["rows"]), event["usd"], event["time"])
            case "made":
                self.open[token] = replace(self.open[token], id=event["id"])
                self.ids.add(event["id"])
            case "cancel":
                self.open[token] = replace(self.open[token], cancelled=True)
            case "settled":
                for key in set(self.open.pop(token).rows).difference(event["again"]):
                    self.tries.pop(key, None)
                self.tries.update(event["again"])
            case "dropped":
                self.open.pop(token)


class BatchLog(_Known):
    """The batches of one job. Opening repairs what a crash left behind."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _read(path, self)
        if path.exists() and path.stat().st_size > whole:
            os.truncate(path, whole)

    def meant(self, token: str, rows: Sequence[str], usd: float) -> Batch:
        """A batch is about to be made."""
        self._write({"event": "meant", "token": token, "rows": rows, "usd": usd, "time": time.time()})
        return self.open[token]

    def made(self, batch: Batch, id_: str) -> Batch:
        self._write({"event": "made", "token": batch.token, "id": id_})
        return self.open[batch.token]

    def cancel(self, batch: Batch) -> Batch:
        self._write({"event": "cancel", "token": batch.token})
        return self.open[batch.token]

    def settled(self, batch: Batch, again: Sequence[str]) -> None:
        self._write({"event": "settled", "token": batch.token, "again": again})

    def dropped(self, batch: Batch) -> None:
        self._write({"event": "dropped", "token": batch.token})

    def _write(self, event: dict[str, Any]) -> None:
        """Durable before it returns: what follows may cost money. Raises Fatal where the disk is full."""
        with unstored():
            lines = Lines(self._path)
            try:
                lines.append(event)
            finally:
                lines.close()
        self.apply(event)


def _read(path: Path, known: _Known) -> int:
    """Apply the whole lines of a log, which may be growing; returns how many bytes they are."""
    raw = path.read_bytes() if path.exists() else b""
    whole = raw[: raw.rfind(b"\n") + 1]
    for line in whole.splitlines():
        known.apply(json.loads(line))
    return len(whole)


def new_token() -> str:
    return secrets.token_hex(8)


def open_batches(path: Path) -> dict[str, Batch]:
    """Batches that a job has under way, by token. Another process may be writing the log."""
    known = _Known()
    _read(path, known)
    return known.open


def batches_of(store: Store, key: str) -> dict[str, Batch]:
    """Batches under way of a job, by the key that it was asked for or the one that it turned out to have."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        key = read_json(store.realised(key))["key"]
    return open_batches(store.work(key) / "scratch" / NAME)


def under_way(ledger: Path) -> set[str]:
    """Content keys of what waits in the batches of a job, by the path of its ledger."""
    return {key for batch in open_batches(ledger.with_name(NAME)).values() for key in batch.rows}


def in_batches(declaration: Any, ledger: Path) -> bool:
    """Whether requests go in batches: the spec says so, or an earlier run has some under way."""
    return getattr(declaration, "mode", "live") == "batch" or bool(under_way(ledger))
