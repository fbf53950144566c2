"""Answers that all jobs of a store share: what one was told, no other asks again.

    <store>/.answers/<model>-<digest>/<job>.<random>.jsonl

A folder for each model, in it a file for each run that got answers. Only that run appends to it;
nothing is locked, renamed or rewritten, so this works on NFS, and any file may be removed at any
time. A line that is being written has no end yet, and is left for the next look. Only replies with
text get in: failures are asked again by everybody.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.declare import LLM, AnthropicLLM, OpenAiLLM
from runtime.files import canonical, digest_text
from runtime.llms.base import Reply, Request
from runtime.llms.client import addressed
from runtime.llms.ledger import decode, readable
from runtime.llms.lines import Lines

if TYPE_CHECKING:
    from runtime.job import Job

FOLDER = ".answers"
LOOK_EVERY_S, LOOK_SHARE = 5.0, 20.0  # at least so long, and so many times what a look took
HEAD = b'{"key": "'  # how every line begins, so that most are passed over unread
PLACE = slice(len(HEAD), len(HEAD) + 64)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where a job shares answers. `role` is its stage kind; `job` its key."""

    root: Path
    role: str
    job: str

    def of(self, declaration: LLM, todo: Iterable[tuple[str, Request]]) -> Answers | None:
        """The answers of one model to these requests, by content key.

        None for models that cost nothing, and for those whose answers are not to be shared.
        """
        if not isinstance(declaration, OpenAiLLM | AnthropicLLM) or not declaration.shared:
            return None
        who = [declaration.provider, (declaration.base_url or "").rstrip("/"), declaration.model]
        name = re.sub(r"[^\w.-]+", "-", declaration.model)[:60]
        folder = self.root / f"{name}-{digest_text(canonical(who))[:12]}"
        keys = {key: self._key(who, addressed(declaration, request)) for key, request in todo}
        return Answers(folder, f"{self.job[:12]}.{secrets.token_hex(4)}.jsonl", keys)

    def _key(self, who: list[str], sent: Request) -> str:
        """One that samples is shared within a role only: a critic and an evaluator draw each for itself."""
        role = self.role if sent.temperature > 0 else ""
        return digest_text(canonical([*who, sent.content_key(), role]))


class Answers:
    """What one model has answered so far, to any job, of what one run asks."""

    def __init__(self, folder: Path, mine: str, keys: Mapping[str, str]) -> None:
        self._folder = folder
        self._mine = mine
        self._keys = keys
        self._wanted = {shared.encode(): key for key, shared in keys.items()}
        self._found: dict[str, Reply] = {}
        self._read: dict[str, int] = {}  # file -> how far it was read
        self._lines: Lines | None = None
        self._due = 0.0

    def take(self, key: str) -> Reply | None:
        """An answer that somebody else was given."""
        return self._found.pop(key) if self.knows(key) else None

    def knows(self, key: str) -> bool:
        """Whether somebody else was given an answer; looks from time to time at what is new."""
        now = time.monotonic()
        if now >= self._due:
            self._look()
            self._due = time.monotonic() + max(LOOK_EVERY_S, LOOK_SHARE * (time.monotonic() - now))
        return key in self._found

    def add(self, key: str, line: Mapping[str, Any]) -> None:
        """Share a reply, as a line of the ledger; one without text is as good as none."""
        if line["reply"].strip():
            if self._lines is None:
                self._lines = Lines(self._folder / self._mine)
            kept = {name: value for name, value in line.items() if name not in ("key", "raw")}
            self._lines.append({"key": self._keys[key], **kept})

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    def _look(self) -> None:
        for file in sorted(self._folder.glob("*.jsonl")):
            if file.name != self._mine:
                self._read[file.name] = self._tail(file, self._read.get(file.name, 0))

    def _tail(self, path: Path, start: int) -> int:
        """Read what was appended since; returns where the last whole line ends."""
        try:
            with path.open("rb") as file:
                file.seek(start)
                for raw in file:
                    if not raw.endswith(b"\n"):
                        break
                    start += len(raw)
                    if raw[PLACE] in self._wanted:
                        self._keep(raw, path)
        except OSError:  # removed meanwhile
            pass
        return start

    def _keep(self, raw: bytes, path: Path) -> None:
        line = readable(raw)
        reply = decode(line) if line is not None else None
        if isinstance(reply, Reply):
            told = {"shared": f"{path.parent.name}/{path.name}"}
            self._found[self._wanted[raw[PLACE]]] = replace(reply, cost_usd=0.0, raw=told)


def shelf_of(job: Job) -> Shelf:
    return Shelf(job.root / FOLDER, job.kind.name, job.key)
