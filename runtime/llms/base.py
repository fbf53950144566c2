"""What is asked of a language model and what comes back, the same for every provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from runtime.files import canonical, digest_text

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One question. `id` is the asker's own name for it and never reaches the provider.

    `context` states the same facts as the messages for providers that compute their answers:
    `{"task": "complete", "prompt": ...}` or `{"task": "judge", "prompt": ..., "first": ..., "second": ...,
    "say": ...}`, with the answers in the order in which they are shown and a reply for either of them.

    top_logprobs: how many of the likeliest first tokens the reply shall tell, with their log-probabilities.
    choices: beginnings of replies of which a provider that can tells them instead, however unlikely.
    """

    id: str
    messages: tuple[Message, ...]
    temperature: float = 0.0
    max_tokens: int = 256
    seed: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int = 0
    choices: tuple[str, ...] = ()

    def content_key(self) -> str:
        """Equal for requests that ask the same; the context only repeats the messages, so it is left out."""
        asked = [[m.role, m.content] for m in self.messages]
        more = [[self.top_logprobs, self.choices]] if self.top_logprobs else []
        return digest_text(canonical([asked, self.temperature, self.max_tokens, self.seed, *more]))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them; 0 where it does not say.

    cached_tokens: those of the input that it had in a cache.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a server says in its headers that it allows in a minute; None where it does not say."""

    requests: int | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Providers fill in the first four fields and the last three; the client measures the others.

    `finish_reason` is `stop`, `length` or the provider's own word. `model` is the snapshot that the
    provider says it used. `cost_usd` is None where the declaration states no prices. `raw` is what else
    the provider said (its ids, its own count of tokens), for audits: it goes to the ledger, not further.
    `logprobs` are those of beginnings of the reply, in nats, where they were asked for.
    """

    text: str
    finish_reason: str = "stop"
    usage: Usage = Usage()
    model: str = ""
    latency_s: float = 0.0
    cost_usd: float | None = None
    allowed: Allowed | None = field(default=None, compare=False)
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)
    logprobs: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was given up. `kind` is the `kind` of the error that ended it.

    A provider may have been paid all the same, say for a refusal.
    """

    kind: str
    message: str
    usage: Usage = Usage()
    cost_usd: float | None = None


Outcome = Reply | Failure


class Retryable(Exception):
    """The same request may succeed later: rate limits, time-outs, broken connections, server errors.

    `retry_after`: seconds that the server asked to wait, where it did; `allowed`: its rates, likewise.
    """

    def __init__(
        self, kind: str, message: str, retry_after: float | None = None, allowed: Allowed | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after
        self.allowed = allowed


class Skipped(Exception):
    """This request will never succeed, others may: a refusal, a content filter, a malformed request.

    `usage`: tokens that the provider counted for it.
    """

    def __init__(self, kind: str, message: str, usage: Usage = Usage()) -> None:
        super().__init__(message)
        self.kind = kind
        self.usage = usage


class Fatal(Exception):
    """No request can succeed: a bad key, no such model, no money left. Says what to do."""


class Provider(Protocol):
    """Answers requests. Made inside a running event loop with its declaration as the only argument."""

    async def ask(self, request: Request) -> Reply:
        """Answer one request, tried once. Raises Retryable, Skipped or Fatal, and nothing else."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...
