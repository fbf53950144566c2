"""How many requests may be in flight, over any course of replies and refusals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.llms.limiter import Window


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
