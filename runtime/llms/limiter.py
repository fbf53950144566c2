"""When the next request may start: rates, evenly spaced, the server's own pauses, and how many at once.

Pure arithmetic on a clock that the caller reads, so that it is tested without waiting. Spacing is
even, with no burst: in no minute do more requests start, or are more tokens reserved, than allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from runtime.llms.base import Allowed, Request, Usage

CHARACTERS_PER_TOKEN = 3.5  # errs on the high side for English; replaced by the true count afterwards


def estimate_tokens(request: Request) -> Usage:
    """Most tokens that a request may use, as a provider reserves them: its text and its longest answer."""
    characters = sum(len(message.content) for message in request.messages)
    return Usage(round(characters / CHARACTERS_PER_TOKEN), request.max_tokens)


def _units(tokens: Usage) -> tuple[int, int, int]:
    """What one request takes of the three rates of tokens: all, read and written."""
    return tokens.input_tokens + tokens.output_tokens, tokens.input_tokens, tokens.output_tokens


@dataclass(slots=True)
class _Lane:
    """One rate: what is taken moves the next start on, what is given back moves it back."""

    pace: float  # seconds for a unit; 0 where nothing limits it
    next: float = 0.0

    def take(self, start: float, units: int) -> None:
        self.next = max(start, self.next) + units * self.pace


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request has taken, at the paces of then: a pace that is learnt later gives nothing back."""

    start: float
    tokens: Usage
    paces: tuple[float, ...]


class Limiter:
    """Hands out starting times. `held_until` moves all of them: one 429 speaks for every request.

    A rate that is not stated is what the server's headers say of it; until they do, nothing limits it.
    """

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._requests = _Lane(_pace(requests_per_minute))
        self._tokens = (_Lane(_pace(tokens_per_minute)), _Lane(0.0), _Lane(0.0))  # all, read, written
        self._stated = requests_per_minute is not None, tokens_per_minute is not None
        self.held_until = 0.0

    def reserve(self, now: float, tokens: Usage) -> Reservation:
        """The time at which a request of so many tokens may start; its share is then taken."""
        lanes = (self._requests, *self._tokens)
        start = max(now, self.held_until, *(lane.next for lane in lanes))
        for lane, units in zip(lanes, (1, *_units(tokens)), strict=True):
            lane.take(start, units)
        return Reservation(start, tokens, tuple(lane.pace for lane in lanes))

    def settle(self, reserved: Reservation, used: Usage | None) -> None:
        """Give back the tokens that a request did not use: all of them (`None`) where its try failed.

        A server that counts no tokens (0) is believed to have used what was reserved.
        """
        if used != Usage():
            self._give_back(reserved, used or Usage(), requests=0)

    def cancel(self, reserved: Reservation) -> None:
        """Give back all that was taken for a request which was not sent."""
        self._give_back(reserved, Usage(), requests=1)

    def _give_back(self, reserved: Reservation, used: Usage, requests: int) -> None:
        too_much = (r - u for r, u in zip(_units(reserved.tokens), _units(used), strict=True))
        lanes = (self._requests, *self._tokens)
        for lane, pace, units in zip(lanes, reserved.paces, (requests, *too_much), strict=True):
            lane.next -= units * pace

    def learn(self, allowed: Allowed) -> None:
        """Take rates from a server's headers where none is stated."""
        if not self._stated[0] and allowed.requests:
            self._requests.pace = _pace(allowed.requests)
        if not self._stated[1]:
            said = allowed.tokens, allowed.input_tokens, allowed.output_tokens
            for lane, per_minute in zip(self._tokens, said, strict=True):
                lane.pace = _pace(per_minute) or lane.pace

    def hold(self, until: float) -> None:
        """Start nothing before this time."""
        self.held_until = max(self.held_until, until)


def _pace(per_minute: int | None) -> float:
    return 60 / per_minute if per_minute else 0.0


@cache
def limiter_of(
    provider: str, base_url: str | None, model: str, requests: int | None, tokens: int | None
) -> Limiter:
    """The one limiter of a model in this process: what one run learnt, the next one keeps."""
    return Limiter(requests, tokens)


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
