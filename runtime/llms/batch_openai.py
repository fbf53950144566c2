"""Batches of OpenAI: a file of requests, a batch over it, files of results. Found again by their metadata."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import openai

from runtime.llms.base import Fatal, Reply, Request, Retryable
from runtime.llms.batch_vendor import (
    SKEW_S,
    UPLOAD_S,
    Answer,
    Cancelled,
    Found,
    QueueFull,
    Row,
    State,
    json_lines,
    meant,
    named,
    text_of,
)
from runtime.llms.http import meaning, told
from runtime.llms.openai_chat import OpenAiChat, read_completion

ENDPOINT = "/v1/chat/completions"
TAG = "alignc"  # metadata key of a batch's token
ENDED = ("completed", "failed", "expired", "cancelled")
PAGE = 100


class OpenAiBatches(OpenAiChat):
    """One client for all batches of a run."""

    most_rows, most_bytes = 50_000, 200_000_000

    def row(self, name: str, request: Request) -> Row:
        body = self._arguments(request, self._limit_name)
        return {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}

    async def make(self, token: str, rows: Sequence[Row]) -> str:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with meant(openai, self._declaration, self._key):
            file = await self._client.files.create(
                file=(f"alignc-{token}.jsonl", text.encode()), purpose="batch", timeout=UPLOAD_S
            )
            made = await self._client.batches.create(
                input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={TAG: token}
            )
            return text_of(made.id)

    async def find(self, token: str, rows: int, since: float, others: set[str]) -> Found:
        with meant(openai, self._declaration, self._key):
            page = await self._client.batches.list(limit=PAGE)
            while True:
                for batch in page.data:
                    if (batch.metadata or {}).get(TAG) == token:
                        return Found(text_of(batch.id))
                old = page.data and all(batch.created_at < since - SKEW_S for batch in page.data)
                if old or not page.has_next_page():
                    return Found()
                page = await page.get_next_page()

    async def look(self, id_: str) -> State:
        with meant(openai, self._declaration, self._key, id_):
            batch = await self._client.batches.retrieve(id_)
            counts = batch.request_counts
            return State(
                words=text_of(batch.status),
                ended=batch.status in ENDED,
                done=(counts.completed or 0) + (counts.failed or 0) if counts else 0,
                cancelled=batch.status == "cancelled",
                problem=self._problem(id_, batch) if batch.status == "failed" else None,
            )

    def _problem(self, id_: str, batch: Any) -> Fatal | QueueFull:
        """Why a batch failed as a whole: its file did not pass the checks."""
        errors = (batch.errors and batch.errors.data) or []
        if any(error.code == "token_limit_exceeded" for error in errors):
            return QueueFull(told(errors[0].message or "", self._key))
        words = "; ".join(f"{e.code}: {e.message}" for e in errors[:3]) or "no reason given"
        return Fatal(
            f"OpenAI refused the batch {id_}: {told(words, self._key)}\nMend the cause, then run again."
        )

    async def cancel(self, id_: str) -> None:
        with meant(openai, self._declaration, self._key, id_):
            await self._client.batches.cancel(id_)

    async def results(self, id_: str) -> AsyncGenerator[tuple[str, Answer], None]:
        with meant(openai, self._declaration, self._key, id_):
            batch = await self._client.batches.retrieve(id_)
            for file in filter(None, (batch.output_file_id, batch.error_file_id)):
                async with self._client.files.with_streaming_response.content(file) as response:
                    async for row in json_lines(response):
                        yield named(row, self._key, self._read_row)

    def _read_row(self, row: Row) -> Reply:
        """A row's reply. Raises what it means where there is none."""
        response, error = row.get("response"), row.get("error") or {}
        if response is None:
            code, words = str(error["code"]), told(error.get("message") or error["code"], self._key)
            if code == "batch_cancelled":
                raise Cancelled(words)
            raise Retryable("expired" if code == "batch_expired" else "server", words)
        status, body = response["status_code"], response["body"]
        if status == 200:
            return read_completion(body)
        inner = body.get("error") if isinstance(body, dict) else None
        message = told(inner.get("message") if isinstance(inner, dict) else body, self._key)
        if status == 400 and "max_completion_tokens" in message:
            self._limit_name = "max_completion_tokens"  # from the next batch on
            raise Retryable("bad_request", message)
        me = self._declaration
        raise meaning(status, {}, body, message, variable=me.api_key_env, model=me.model)
