"""Asks over the OpenAI chat protocol: OpenAI itself, vLLM, llama.cpp, gateways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, BadRequestError, OpenAIError, Timeout

from runtime.declare import OpenAiLLM
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


class OpenAiChat:
    """One client, and so one pool of connections, for all requests of a run."""

    def __init__(self, declaration: OpenAiLLM) -> None:
        self._declaration = declaration
        self._key = api_key(declaration.api_key_env, declaration.base_url)
        self._client = AsyncOpenAI(
            api_key=self._key,
            base_url=declaration.base_url,
            max_retries=0,
            timeout=Timeout(**timeout_arguments(declaration.limits)),
        )
        # OpenAI's newer models refuse the old name, most other servers do not know the new one.
        self._limit_name = "max_tokens" if declaration.base_url else "max_completion_tokens"

    async def ask(self, request: Request) -> Reply:
        name = self._limit_name  # another request may change it meanwhile
        try:
            return await self._try(request, name)
        except BadRequestError as error:
            if name == "max_completion_tokens" or "max_completion_tokens" not in str(error):
                raise refused(error, self._declaration, self._key) from error
        except APIStatusError as error:
            raise refused(error, self._declaration, self._key) from error
        self._limit_name = "max_completion_tokens"
        return await self.ask(request)

    async def close(self) -> None:
        await self._client.close()

    def _arguments(self, request: Request, limit_name: str) -> dict[str, Any]:
        made: dict[str, Any] = {
            "model": self._declaration.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            limit_name: request.max_tokens,
        }
        if (
            request.temperature != 1.0 or self._declaration.base_url
        ):  # 1 is OpenAI's default; some models take no other
            made["temperature"] = request.temperature
        if request.seed is not None:
            made["seed"] = request.seed
        if request.top_logprobs:
            made |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return made

    async def _try(self, request: Request, limit_name: str) -> Reply:
        try:
            # As `chat.completions.create` does, but for the SDK's look at the type of every field: that
            # takes a third of the CPU time of a request.
            body = self._arguments(request, limit_name)
            answer = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=body)
        except APIStatusError:
            raise
        except APIConnectionError as error:
            raise unanswered(error, self._declaration.limits, self._key) from error
        except (OpenAIError, ValueError, TypeError) as error:
            raise unsent(error, self._key) from error
        with reading(OpenAIError, self._key):
            completion = message_of(answer.content, answer.headers, "x-request-id")
            return replace(read_completion(completion), allowed=allowed(answer.headers))


def read_completion(completion: Any) -> Reply:
    """A chat completion as a reply. Raises whatever a body of another shape makes it raise."""
    choice = completion.choices[0] if completion.choices else None
    if choice is None:
        raise ValueError("it has no choices")
    reason = choice.finish_reason or ""
    usage = _usage(completion.usage) if completion.usage else Usage()
    if reason == "content_filter":
        raise Skipped("content_filter", "the provider filtered its answer", usage)
    if choice.message.refusal:
        raise Skipped("refused", str(choice.message.refusal)[:500], usage)
    text = choice.message.content
    if not isinstance(text, str):
        if reason != "length":
            raise ValueError("it has no text")
        text = ""  # all tokens went into reasoning
    return Reply(text, reason, usage, completion.model or "", raw=raw(completion), logprobs=_logprobs(choice))


def _usage(used: Any) -> Usage:
    cached = used.prompt_tokens_details and used.prompt_tokens_details.cached_tokens
    return usage_of(used.prompt_tokens, used.completion_tokens, cached)


def _logprobs(choice: Any) -> tuple[tuple[str, float], ...] | None:
    """The likeliest first tokens, where the server tells them."""
    told = choice.logprobs
    if told is None or not told.content:
        return None
    return tuple((str(one.token), float(one.logprob)) for one in told.content[0].top_logprobs)
