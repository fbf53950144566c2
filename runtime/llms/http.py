"""What an HTTP answer means for a request: try again, leave this one out, or stop. For every SDK alike."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runtime.declare import AnthropicLLM, Limits, OpenAiLLM
from runtime.keys import BadKey, find_key
from runtime.llms.base import Allowed, Fatal, Retryable, Skipped, Usage

PLACEHOLDER_KEY = "none"  # servers of one's own take any; SDKs insist on one
SHALL_RETRY = "x-should-retry"  # both SDKs obey this header
AGAIN = (408, 409, 425, 429, 499)  # and those of 500 and above but for some
NEVER = (404, 405, 410, 501, 505)
# Signs in an error's code, type or words, in small letters.
OUT_OF_MONEY = ("insufficient_quota", "billing_", "credit balance", "spend limit", "api usage limits")
TOO_LONG = (
    "context_length_exceeded", "maximum context length", "exceed_context_size", "string_above_max_length",
    "prompt is too long", "request too large", "input is too long", "exceed context limit",
)  # fmt: skip
FILTERED = ("content_filter", "content filter", "content policy", "content_policy",
            "content management policy", "invalid_prompt")  # fmt: skip
# Settings that a model may refuse, for every request alike.
SETTINGS = {
    "temperature": "Set `temperature` (of a judge: `judge_temperature`) to 1.",
    "max_tokens": "Lower `max_tokens` (of a judge: `judge_max_tokens`).",
    "max_completion_tokens": "Lower `max_tokens` (of a judge: `judge_max_tokens`).",
}
LONGEST_MESSAGE = 500
CONNECT_S = 30.0
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


def api_key(variable: str, base_url: str | None) -> str:
    """The key (see `runtime.keys`). Raises Fatal where there is none and the server is not one's own."""
    try:
        key = find_key(variable)
    except BadKey as error:
        raise Fatal(str(error)) from error
    if not key and not base_url:
        raise Fatal(
            f"the environment variable {variable} is not set, and the provider needs a key\n"
            f"Set it where the job runs (export {variable}=...), or name the key's file in {variable}_FILE "
            "or in `keys` of the cluster profile, or name your own server with `base_url`."
        )
    return key or PLACEHOLDER_KEY


def told(message: object, secret: str) -> str:
    """A server's words, fit to be stored: short, and without the key."""
    text = str(message)
    if secret != PLACEHOLDER_KEY:
        text = text.replace(secret, "[key]")
    return text[:LONGEST_MESSAGE]


# Rate -> the headers that state it, of OpenAI (and Azure, Groq, vLLM's gateways) and of Anthropic.
RATES = {
    "requests": ("x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit"),
    "tokens": ("x-ratelimit-limit-tokens", "anthropic-ratelimit-tokens-limit"),
    "input_tokens": ("anthropic-ratelimit-input-tokens-limit",),
    "output_tokens": ("anthropic-ratelimit-output-tokens-limit",),
}


def allowed(headers: Mapping[str, str]) -> Allowed:
    """What a server says that it allows in a minute; headers that make no sense say nothing."""
    return Allowed(**{rate: _whole(headers, names) for rate, names in RATES.items()})


def _whole(headers: Mapping[str, str], names: Iterable[str]) -> int | None:
    said = next((headers[name] for name in names if name in headers), "")
    return int(said) or None if said.isascii() and said.isdigit() else None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asked to wait: a number, or the time of day by the server's own clock."""
    value = headers.get("retry-after-ms")
    try:
        if value:
            return max(0.0, float(value) / 1000)
        value = headers.get("retry-after")
        return max(0.0, float(value)) if value else None
    except ValueError:
        until, now = _time(value), _time(headers.get("date"))
        return None if until is None else max(0.0, until - (time.time() if now is None else now))


def _time(value: str | None) -> float | None:
    """An HTTP date as Unix time; None where it is none."""
    try:
        return email.utils.parsedate_to_datetime(value or "").timestamp()
    except (ValueError, OverflowError):
        return None


class Fields(dict[str, Any]):
    """A JSON object with its fields as attributes; None for those that it has not."""

    __getattr__ = dict.get


def message_of(content: bytes, headers: Mapping[str, str], id_header: str) -> Fields:
    """The message of a reply, with the id that the provider gave the request. Raises one of UNREADABLE."""
    message: Fields = json.loads(content, object_hook=Fields)
    message["request_id"] = headers.get(id_header)
    return message


def usage_of(read: Any, written: Any, cached: Any) -> Usage:
    """Tokens as a server counts them. Raises one of UNREADABLE for what is no number."""
    tokens = int(read or 0)
    return Usage(tokens, int(written or 0), min(tokens, int(cached or 0)))


def raw(message: Fields) -> dict[str, Any]:
    """What an answer says beside the text: ids, snapshot, the provider's own count of tokens."""
    left_out = {"choices", "content", "model", "object", "type", "role"}
    return {name: value for name, value in message.items() if value is not None and name not in left_out}


def timeout_arguments(limits: Limits) -> dict[str, float]:
    """Arguments of the SDKs' `Timeout`: how long each wait may be; the client ends the whole attempt."""
    return {"timeout": limits.stall_s, "connect": min(limits.stall_s, CONNECT_S), "pool": limits.timeout_s}


@contextmanager
def reading(error: type[Exception], key: str) -> Iterator[None]:
    """What an SDK does not check when it parses fails anywhere: a body of another shape is told as such."""
    try:
        yield
    except (error, *UNREADABLE) as problem:
        raise Retryable("bad_reply", told(f"the reply cannot be read: {problem}", key)) from problem


def unsent(error: Exception, key: str) -> Skipped:
    """The error to raise for a request that an SDK itself does not take."""
    return Skipped("bad_request", told(f"the request cannot be sent: {error}", key))


def unanswered(error: Exception, limits: Limits, key: str) -> Exception:
    """The error to raise where there was no answer: no address, a broken connection, silence for too long."""
    cause = type(error.__cause__).__name__
    words = told(f"{error} {error.__cause__ or ''}".strip(), key)
    if cause in ("UnsupportedProtocol", "InvalidURL"):
        return Fatal(f"nobody can be reached at this address: {words}\nMend `base_url`.")
    if "Timeout" not in cause:
        return Retryable("connection", words)
    if "Connect" in cause:
        return Retryable("connection", "nobody took the connection in time")
    return Retryable("timeout", f"no byte for {limits.stall_s:g} s (`stall_s`)")


def _field(body: object, name: str) -> str:
    """A field of an error's body, which SDKs hand over with or without its `error` envelope."""
    if not isinstance(body, Mapping):
        return ""
    inner = body.get("error")
    found: Any = inner.get(name) if isinstance(inner, Mapping) else body.get(name)
    return str(found or "")


def refused(error: Any, declaration: AnthropicLLM | OpenAiLLM, key: str) -> Exception:
    """The error to raise for an SDK's error of a status."""
    return meaning(
        error.status_code,
        error.response.headers,
        error.body,
        told(error.message, key),
        variable=declaration.api_key_env,
        model=declaration.model,
    )


def meaning(
    status: int, headers: Mapping[str, str], body: object, message: str, *, variable: str, model: str
) -> Exception:
    """The error to raise for an HTTP status. `message` must be fit to be stored."""
    code = f"{_field(body, 'code')} {_field(body, 'type')}".lower()
    words = f"{code} {message}".lower()
    if status == 402 or (status in (400, 403, 429) and _any(OUT_OF_MONEY, words)):
        return Fatal(f"the account is out of money or quota: {message}\nRaise its limit, then run again.")
    if status == 413 or _any(TOO_LONG, words):
        return Skipped("too_long", f"HTTP {status}: {message}")
    if status in AGAIN or (status >= 500 and status not in NEVER) or headers.get(SHALL_RETRY) == "true":
        kind = "rate_limit" if status in (429, 529) else "server"
        if headers.get(SHALL_RETRY) == "false":
            return Skipped(kind, f"HTTP {status}, not to be tried again: {message}")
        return Retryable(kind, f"HTTP {status}: {message}", retry_after_s(headers), allowed(headers))
    if status == 401:
        # The server's words are left out: some quote the key.
        return Fatal(f"the key in {variable} was refused (HTTP 401)\nSet a valid key, then run again.")
    if status == 403:
        return Fatal(
            f"the account may not do this (HTTP {status}): {message}\nCheck the key's rights and the region."
        )
    if status in NEVER or status < 400:
        return Fatal(
            f"no such model or address: {model!r} (HTTP {status}): {message}\nCheck `model` and `base_url`."
        )
    if _any(FILTERED, words):
        return Skipped("content_filter", message)
    said = _field(body, "message")
    for name, way_out in SETTINGS.items():
        if _field(body, "param") == name or f"`{name}`" in said or said.startswith(f"{name}:"):
            return Fatal(f"{model!r} does not take this {name}: {message}\n{way_out}")
    return Skipped("bad_request", f"HTTP {status}: {message}")


def _any(signs: Iterable[str], words: str) -> bool:
    return any(sign in words for sign in signs)
