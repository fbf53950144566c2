"""What a sampling engine is asked, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

PROBES = 4  # prompts of a call whose log-probabilities an engine tells, for the fidelity number


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its row, its ids, and whether they were cut."""

    row: Mapping[str, Any]
    ids: list[int]
    cut: bool

    @property
    def id(self) -> str:
        return str(self.row["id"])


@dataclass(frozen=True, slots=True)
class Reply:
    """Completion ids of a prompt, EOS last where it ended by itself.

    logprobs: of each id, in nats, as the model gives them: before temperature and top_p; None: not told.
    """

    id: str
    ids: list[int]
    logprobs: list[float] | None = None


class Engine(Protocol):
    """Draws completions.

    troubles: why a prompt that was asked for has no reply, by its id.
    """

    troubles: dict[str, str]

    def complete(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        """Replies as they come, in any order. Some may be missing; the caller asks again."""
        ...

    def close(self) -> None:
        """End whatever was started."""
        ...


def prompt_seed(seed: int, name: str) -> int:
    """The seed of one prompt for engines that take one: 63 bits, a pure function of seed and id."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
