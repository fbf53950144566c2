"""Message batches of Anthropic. They carry no mark of ours but the names of their rows.

By these a batch is found again. They are told only when it has ended; until then every batch of the same size
may be it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import anthropic

from runtime.llms.anthropic_messages import AnthropicMessages, read_message
from runtime.llms.base import Reply, Request, Retryable
from runtime.llms.batch_vendor import (
    SKEW_S,
    UPLOAD_S,
    Answer,
    Cancelled,
    Found,
    Gone,
    Row,
    State,
    json_lines,
    meant,
    named,
    text_of,
)
from runtime.llms.http import meaning, told

PAGE = 1000
# Types of errors, as they stand in results, and the statuses that they have over HTTP.
STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBatches(AnthropicMessages):
    """One client for all batches of a run."""

    most_rows, most_bytes = 100_000, 256_000_000

    def row(self, name: str, request: Request) -> Row:
        return {"custom_id": name, "params": self._arguments(request)}

    async def make(self, token: str, rows: Sequence[Row]) -> str:
        with meant(anthropic, self._declaration, self._key):
            made = await self._client.messages.batches.create(requests=list(rows), timeout=UPLOAD_S)
            return text_of(made.id)

    async def find(self, token: str, rows: int, since: float, others: set[str]) -> Found:
        certain = True
        with meant(anthropic, self._declaration, self._key):
            page = await self._client.messages.batches.list(limit=PAGE)
            while True:
                for batch in page.data:
                    if batch.id in others or _size(batch) != rows or _made(batch) < since - SKEW_S:
                        continue
                    if batch.processing_status != "ended":
                        certain = False
                    elif batch.results_url and await self._first_name(batch.id) == token:
                        return Found(text_of(batch.id))
                old = page.data and all(_made(batch) < since - SKEW_S for batch in page.data)
                if old or not page.has_next_page():
                    return Found(certain=certain)
                page = await page.get_next_page()

    async def _first_name(self, id_: str) -> str:
        """The token in the name of the first row that can be read."""
        async with aclosing(self.results(id_)) as results:
            async for name, _ in results:
                if name:
                    return name.partition("-")[0]
        return ""

    async def look(self, id_: str) -> State:
        with meant(anthropic, self._declaration, self._key, id_):
            batch = await self._client.messages.batches.retrieve(id_)
            counts = batch.request_counts
            return State(
                words=text_of(batch.processing_status),
                ended=batch.processing_status == "ended",
                done=_size(batch) - counts.processing,
                cancelled=counts.canceled > 0,
            )

    async def cancel(self, id_: str) -> None:
        with meant(anthropic, self._declaration, self._key, id_):
            await self._client.messages.batches.cancel(id_)

    async def results(self, id_: str) -> AsyncGenerator[tuple[str, Answer], None]:
        with meant(anthropic, self._declaration, self._key, id_):
            batches = self._client.messages.batches
            if not (await batches.retrieve(id_)).results_url:
                raise Gone(f"Anthropic has archived the batch {id_}")
            async with batches.with_streaming_response.results(id_) as response:
                async for row in json_lines(response):
                    yield named(row, self._key, self._read_row)

    def _read_row(self, row: Row) -> Reply:
        """A row's reply. Raises what it means where there is none."""
        result = row["result"]
        kind = result["type"]
        if kind == "succeeded":
            return read_message(result["message"])
        if kind == "canceled":
            raise Cancelled("the batch was cancelled before this row was asked")
        if kind == "expired":
            raise Retryable("expired", "the batch expired before this row was asked")
        error = result["error"]
        inner = error.get("error") or error  # with and without its envelope
        message, me = told(inner.get("message") or inner["type"], self._key), self._declaration
        status = STATUS.get(inner["type"], 500)
        raise meaning(status, {}, error, message, variable=me.api_key_env, model=me.model)


def _size(batch: Any) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired


def _made(batch: Any) -> float:
    return batch.created_at.timestamp()
