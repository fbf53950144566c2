"""When the next request may start: requests and tokens a minute, evenly spaced, and the server's own pauses.

Pure arithmetic on a clock that the caller reads, so that it is tested without waiting. Spacing is
even, with no burst: in no minute do more requests start, or are more tokens reserved, than allowed.
"""

from __future__ import annotations

from runtime.llms.base import Request, Usage

CHARACTERS_PER_TOKEN = 3.5  # errs on the high side for English; replaced by the true count afterwards


def estimate_tokens(request: Request) -> int:
    """Most tokens that a request may use, as a provider reserves them: its text and its longest answer."""
    characters = sum(len(message.content) for message in request.messages)
    return round(characters / CHARACTERS_PER_TOKEN) + request.max_tokens


class Limiter:
    """Hands out starting times. `held_until` moves all of them: one 429 speaks for every request."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._seconds_per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = 0.0
        self._next_token = 0.0
        self.held_until = 0.0

    def reserve(self, now: float, tokens: int) -> float:
        """The time at which a request of so many tokens may start; its share is then taken."""
        start = max(now, self.held_until, self._next_request, self._next_token)
        self._next_request = max(start, self._next_request) + self._seconds_per_request
        self._next_token = max(start, self._next_token) + tokens * self._seconds_per_token
        return start

    def correct(self, reserved: int, used: Usage) -> None:
        """Give back what a reservation took too much, once the true count is known."""
        spent = used.input_tokens + used.output_tokens
        if spent:
            self._next_token -= (reserved - spent) * self._seconds_per_token

    def hold(self, until: float) -> None:
        """Start nothing before this time."""
        self.held_until = max(self.held_until, until)
