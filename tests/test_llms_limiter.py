"""Nothing is asked faster than allowed, nor more at once than a server bears."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.llms.base import Allowed, Message, Request, Usage
from runtime.llms.http import allowed
from runtime.llms.limiter import Limiter, Window, estimate_tokens

# ---------------------------------------------------------------- rates


def starts_of(limiter: Limiter, tokens: list[int], gaps: list[float]) -> list[float]:
    """Starting times of requests that ask for leave so many seconds after each other."""
    now, starts = 100.0, []
    for n, gap in zip(tokens, gaps, strict=True):
        now += gap
        starts.append(limiter.reserve(now, Usage(n)).start)
    return starts


@given(
    st.integers(1, 600), st.integers(1_000, 100_000),
    st.lists(st.tuples(st.integers(1, 900), st.floats(0, 5)), min_size=1, max_size=200),
)  # fmt: skip
def test_no_minute_sees_more_than_the_limits(rpm: int, tpm: int, asked: list[tuple[int, float]]) -> None:
    tokens = [n for n, _ in asked]
    starts = starts_of(Limiter(rpm, tpm), tokens, [gap for _, gap in asked])
    assert starts == sorted(starts)
    for i, start in enumerate(starts):
        within = [n for n, s in zip(tokens[i:], starts[i:], strict=True) if s < start + 60 - 1e-6]
        assert len(within) <= rpm
        assert sum(within[:-1]) <= tpm  # the last one of a minute may reach into the next


def test_limiter_without_limits_lets_everything_start_at_once() -> None:
    assert starts_of(Limiter(None, None), [5, 5, 5], [0, 0, 1]) == [100.0, 100.0, 101.0]


def test_limiter_reaches_its_rate() -> None:
    starts = starts_of(Limiter(600, None), [1] * 601, [0] * 601)
    assert starts[-1] - starts[0] == pytest.approx(60)


@pytest.mark.parametrize(
    ("used", "next_start"),
    [
        (Usage(5, 5), 10),  # as counted
        (Usage(), 30),  # the server does not count
        (None, 0),  # the try failed
    ],
)
def test_unused_tokens_are_given_back(used: Usage | None, next_start: float) -> None:
    limiter = Limiter(None, 60)  # a token a second
    limiter.settle(limiter.reserve(0, Usage(10, 20)), used)
    assert limiter.reserve(0, Usage(1)).start == pytest.approx(next_start)


def test_tries_that_fail_for_ever_eat_no_tokens() -> None:
    limiter = Limiter(None, 60)
    for now in range(1000):
        limiter.settle(limiter.reserve(now, Usage(500, 500)), None)
    assert limiter.reserve(1000, Usage(1)).start == 1000


def test_what_was_not_sent_is_given_back() -> None:
    limiter = Limiter(60, 60)
    limiter.cancel(limiter.reserve(0, Usage(30)))
    assert limiter.reserve(0, Usage(1)).start == 0


def test_hold_stops_every_start() -> None:
    limiter = Limiter(None, None)
    limiter.hold(50)
    limiter.hold(20)
    assert limiter.reserve(10, Usage(1)).start == 50
    assert limiter.reserve(60, Usage(1)).start == 60


# Headers of an answer -> seconds between two requests of 100 tokens read and 20 written.
LEARNT: dict[str, tuple[dict[str, str], float]] = {
    "nothing": ({}, 0),
    "requests": ({"x-ratelimit-limit-requests": "60"}, 1),
    "tokens": ({"x-ratelimit-limit-requests": "6000", "x-ratelimit-limit-tokens": "3600"}, 2),
    "Anthropic": ({"anthropic-ratelimit-requests-limit": "20"}, 3),
    "Anthropic, read": ({"anthropic-ratelimit-input-tokens-limit": "1500"}, 4),
    "Anthropic, written": (
        {"anthropic-ratelimit-input-tokens-limit": "6000", "anthropic-ratelimit-output-tokens-limit": "240"},
        5,
    ),
    "Anthropic, all": ({"anthropic-ratelimit-tokens-limit": "1200"}, 6),
    "nonsense": ({"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "many"}, 0),
}


@pytest.mark.parametrize("name", LEARNT)
def test_rates_are_learnt_from_headers(name: str) -> None:
    headers, seconds = LEARNT[name]
    limiter = Limiter(None, None)
    limiter.learn(allowed(headers))
    limiter.learn(Allowed())  # an answer without headers changes nothing
    starts = [limiter.reserve(0, Usage(100, 20)).start for _ in range(3)]
    assert starts == pytest.approx([0, seconds, 2 * seconds])


def test_stated_rates_go_before_headers() -> None:
    limiter = Limiter(60, None)
    limiter.learn(Allowed(requests=1, tokens=10_000))
    assert [limiter.reserve(0, Usage(1)).start for _ in range(2)] == [0, 1]


def test_a_rate_learnt_later_gives_nothing_back_for_earlier() -> None:
    limiter = Limiter(None, None)
    early = limiter.reserve(0, Usage(1000))
    limiter.learn(Allowed(tokens=60))
    limiter.reserve(0, Usage(30))
    limiter.settle(early, Usage(1))
    assert limiter.reserve(0, Usage(1)).start == 30


def test_estimate_counts_text_and_answer() -> None:
    assert estimate_tokens(Request("a", (Message("user", "x" * 350),), max_tokens=50)) == Usage(100, 50)


# ---------------------------------------------------------------- at once


def fill(window: Window) -> list[int]:
    """Enter until there is no room."""
    numbers = []
    while window.room():
        numbers.append(window.enter())
    return numbers


def test_refusals_of_one_moment_halve_once() -> None:
    window = Window(16)
    for number in fill(window):
        window.leave(number, refused=True)
    assert window.size == 8 and window.in_flight == 0


def test_it_grows_by_one_a_windowful_while_full() -> None:
    window = Window(16)
    for number in fill(window):
        window.leave(number, refused=True)
    for _ in range(9):  # one in flight is far from full, so nothing is learnt
        window.leave(window.enter(), answered=True)
    assert window.size == 8
    inside = fill(window)
    for _ in range(9):
        window.leave(inside.pop(), answered=True)
        inside += fill(window)
    assert window.size == 9


@given(most=st.integers(1, 64), course=st.lists(st.sampled_from(["enter", "answered", "refused", "failed"])))
def test_it_stays_between_one_and_the_declared_most(most: int, course: list[str]) -> None:
    window, inside = Window(most), []
    for step in course:
        before = window.size
        if step == "enter" and window.room():
            inside.append(window.enter())
        elif step != "enter" and inside:
            window.leave(inside.pop(0), answered=step == "answered", refused=step == "refused")
        assert 1 <= window.size <= most
        assert window.in_flight == len(inside) <= most
        assert window.size >= before or step == "refused"
        assert window.size <= before or step == "answered"
