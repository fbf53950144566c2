"""Asks over the Anthropic messages protocol."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx2
from anthropic import AnthropicError, APIConnectionError, APIStatusError, AsyncAnthropic, Timeout

from runtime.declare import AnthropicLLM
from runtime.llms.base import Reply, Request, Skipped, Usage
from runtime.llms.http import (
    allowed,
    api_key,
    message_of,
    raw,
    reading,
    refused,
    timeout_arguments,
    unanswered,
    unsent,
    usage_of,
)

FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length",
}  # fmt: skip


class AnthropicMessages:
    """One client, and so one pool of connections, for all requests of a run."""

    def __init__(self, declaration: AnthropicLLM) -> None:
        self._declaration = declaration
        self._key = api_key(declaration.api_key_env, declaration.base_url)
        self._client = AsyncAnthropic(
            api_key=self._key,
            base_url=declaration.base_url,
            max_retries=0,
            timeout=Timeout(**timeout_arguments(declaration.limits)),
        )

    async def ask(self, request: Request) -> Reply:
        try:
            # As `messages.create` does, but for the SDK's look at the type of every field.
            body = self._arguments(request)
            answer = await self._client.post("/v1/messages", cast_to=httpx2.Response, body=body)
        except APIStatusError as error:
            raise refused(error, self._declaration, self._key) from error
        except APIConnectionError as error:
            raise unanswered(error, self._declaration.limits, self._key) from error
        except (AnthropicError, ValueError, TypeError) as error:
            raise unsent(error, self._key) from error
        with reading(AnthropicError, self._key):
            message = message_of(answer.content, answer.headers, "request-id")
            return replace(read_message(message), allowed=allowed(answer.headers))

    async def close(self) -> None:
        await self._client.close()

    def _arguments(self, request: Request) -> dict[str, Any]:
        system = "\n\n".join(m.content for m in request.messages if m.role == "system")
        made: dict[str, Any] = {
            "model": self._declaration.model,
            "messages": [
                {"role": m.role, "content": m.content} for m in request.messages if m.role != "system"
            ],
            "max_tokens": request.max_tokens,
        }
        if system:
            made["system"] = system
        if request.temperature != 1.0:  # 1 is the default, some models take no other
            made["temperature"] = request.temperature
        return made


def read_message(message: Any) -> Reply:
    """A message as a reply. Raises whatever a body of another shape makes it raise."""
    usage = _usage(message.usage) if message.usage else Usage()
    if message.stop_reason == "refusal":
        raise Skipped("refused", "the model refused", usage)
    texts = [block.text for block in message.content if block.type == "text"]
    reason = FINISH.get(message.stop_reason, message.stop_reason or "")
    if not texts and reason != "length":
        raise ValueError("it has no text")
    return Reply("".join(texts), reason, usage, message.model or "", raw=raw(message))


def _usage(used: Any) -> Usage:
    """Anthropic counts what it reads from its cache, and what it writes there, apart from the input."""
    cached = used.cache_read_input_tokens or 0
    fresh = (used.input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    return usage_of(fresh + cached, used.output_tokens, cached)
