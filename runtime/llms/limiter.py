"""When the next request may start: rates, evenly spaced, the server's own pauses, and how many at once.

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


class Window:
    """How many requests may be in flight: halved where the server says "too many", then grown again.

    It grows by one for a windowful of replies, up to `most`, and only while it is full. Requests that
    were in flight together and are refused together are one sign, so they halve it once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(most)
        self._entered = 0
        self._halved_at = 0
        self.in_flight = 0

    @property
    def size(self) -> int:
        return int(self._size)

    def room(self) -> bool:
        return self.in_flight < self.size

    def enter(self) -> int:
        """Take a place; returns the number to leave it with."""
        self.in_flight += 1
        self._entered += 1
        return self._entered

    def leave(self, number: int, *, answered: bool = False, refused: bool = False) -> None:
        """Give the place back, saying whether there was a reply or a "too many"; neither changes nothing."""
        full = self.in_flight >= self.size
        self.in_flight -= 1
        if refused and number > self._halved_at:
            self._size = max(1.0, self._size / 2)
            self._halved_at = self._entered
        elif answered and full:
            self._size = min(float(self._most), self._size + 1 / self._size)
