"""Answers from a record: a ledger, or JSON lines of {prompt, reply}; asks nobody."""

from __future__ import annotations

from pathlib import Path

from runtime.declare import ReplayLLM
from runtime.files import read_rows
from runtime.llms.base import Fatal, Reply, Request, Skipped
from runtime.llms.ledger import decode


class ReplayProvider:
    """A ledger's lines answer equal requests; a {prompt, reply} line answers that last user message."""

    def __init__(self, declaration: ReplayLLM) -> None:
        self._path = declaration.path
        self._by_key: dict[str, Reply] = {}
        self._by_prompt: dict[str, Reply] = {}
        try:
            for row in read_rows(Path(declaration.path)):
                self._add(row)
        except (OSError, ValueError) as error:
            raise Fatal(f"the record cannot be read: {error}") from error

    def _add(self, row: dict[str, object]) -> None:
        if "key" in row:
            outcome = decode(row)
            if isinstance(outcome, Reply):
                self._by_key[str(row["key"])] = outcome
        elif isinstance(row.get("prompt"), str) and isinstance(row.get("reply"), str):
            self._by_prompt[str(row["prompt"])] = Reply(str(row["reply"]), model="replay")
        else:
            raise ValueError(f"{self._path}: a line is neither a ledger's nor {{prompt, reply}}")

    async def ask(self, request: Request) -> Reply:
        asked = [m.content for m in request.messages if m.role == "user"]
        found = self._by_key.get(request.content_key()) or self._by_prompt.get(asked[-1] if asked else "")
        if found is None:
            raise Skipped("not_recorded", f"{self._path} has no answer to this request")
        return found

    async def close(self) -> None:
        pass
