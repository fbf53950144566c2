"""What a provider of batches can do, the same for every vendor, and what their SDKs' errors mean."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from runtime.declare import LLM, AnthropicLLM, OpenAiLLM
from runtime.llms.base import Fatal, Reply, Request, Retryable, Skipped
from runtime.llms.http import Fields, reading, refused, told, unanswered

UPLOAD_S = 900.0  # for one request that carries a whole batch
SKEW_S = 3600.0  # a provider's clock may be so far behind ours

Row = dict[str, Any]


class Gone(Exception):
    """The provider knows no such batch, or has its results no more."""


class Cancelled(Exception):
    """A row that was not asked, because somebody stopped its batch."""


Answer = Reply | Exception  # of one row: Retryable, Skipped, Fatal or Cancelled


class QueueFull(Exception):
    """The provider took nothing of a batch: more tokens wait there than the account may have waiting."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a batch is. `problem`: why nothing of it was asked at all."""

    words: str
    ended: bool
    done: int = 0
    cancelled: bool = False
    problem: Fatal | QueueFull | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search for a batch came to; `certain` is false while one that may be it is still at work."""

    id: str = ""
    certain: bool = True


class Vendor(Protocol):
    """Batches. Methods raise Retryable, Skipped or Fatal, and Gone where they are about one batch."""

    most_rows: int
    most_bytes: int

    def row(self, name: str, request: Request) -> Row:
        """A request as a row of a batch."""
        ...

    async def make(self, token: str, rows: Sequence[Row]) -> str:
        """Make a batch; returns the provider's id of it."""
        ...

    async def find(self, token: str, rows: int, since: float, others: set[str]) -> Found:
        """Look for a batch of so many rows that may have been made. others: ids that are not it."""
        ...

    async def look(self, id_: str) -> State: ...

    async def cancel(self, id_: str) -> None: ...

    def results(self, id_: str) -> AsyncGenerator[tuple[str, Answer], None]:
        """Rows of a batch that has ended, by name, in any order. The name of a damaged line is empty."""
        ...

    async def close(self) -> None: ...


def make_vendor(declaration: LLM) -> Vendor:
    """The batches of a declared llm. Raises Fatal where there is no key."""
    if isinstance(declaration, OpenAiLLM):
        from runtime.llms.batch_openai import OpenAiBatches

        return OpenAiBatches(declaration)
    if isinstance(declaration, AnthropicLLM):
        from runtime.llms.batch_anthropic import AnthropicBatches

        return AnthropicBatches(declaration)
    raise Fatal(
        f"an earlier run has batches under way, and the provider {declaration.provider!r} has none\n"
        "Run it once more with the provider that it had, `mode: live`: that ends them."
    )


@contextmanager
def meant(
    sdk: ModuleType, declaration: OpenAiLLM | AnthropicLLM, key: str, batch: str = ""
) -> Iterator[None]:
    """Raise what an SDK's error means; both SDKs have the same names. batch: id of the one asked about."""
    with reading(sdk.APIError, key):
        try:
            yield
        except sdk.NotFoundError as error:
            if batch:
                raise Gone(f"the provider has no batch {batch}: {told(error.message, key)}") from error
            raise Fatal(
                f"the server has no batches (HTTP 404): {told(error.message, key)}\n"
                "Check `base_url`, or set `mode: live` of the llm."
            ) from error
        except sdk.APIStatusError as error:
            raise refused(error, declaration, key) from error
        except sdk.APIConnectionError as error:
            raise unanswered(error, declaration.limits, key) from error


def text_of(value: Any) -> str:
    """A field that has to be text, and not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("the batch has no id or status")
    return value


def named(row: Row | None, key: str, read: Callable[[Row], Reply]) -> tuple[str, Answer]:
    """A line of results: the row's name, and what reading its reply comes to."""
    name = row.get("custom_id") if row else None
    if row is None or not isinstance(name, str):
        return "", Retryable("bad_reply", "a line of the results cannot be read")
    try:
        with reading(ValueError, key):
            return name, read(row)
    except (Retryable, Skipped, Fatal, Cancelled) as error:
        return name, error


async def json_lines(response: Any) -> AsyncIterator[Row | None]:
    """Objects of a streamed JSON-lines body; None for a line that is none. Raises Retryable.

    Not by the SDKs' own readers: those take U+2028 inside a text for the end of a line.
    """
    rest = b""
    try:
        async for chunk in response.iter_bytes():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield _object(line)
    except OSError as error:
        raise Retryable("connection", f"the results broke off: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
            raise
        # The SDKs let errors of the transport through while a body streams.
        raise Retryable("connection", f"the results broke off: {error}") from error
    if rest.strip():
        yield _object(rest)


def _object(line: bytes) -> Row | None:
    try:
        row = json.loads(line, object_hook=Fields)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
