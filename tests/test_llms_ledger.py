"""The ledger and the limiter: nothing settled is lost, nothing is asked faster than allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.llms.base import Failure, Message, Outcome, Reply, Request, Usage
from runtime.llms.ledger import Ledger
from runtime.llms.limiter import Limiter, estimate_tokens


def request(text: str, id_: str = "") -> Request:
    return Request(id_ or text, (Message("user", text),))


def settle(ledger: Ledger, text: str, outcome: Outcome) -> None:
    asked = request(text)
    ledger.append(asked, asked.content_key(), outcome, 1)


def test_reopened_ledger_knows_what_was_settled(tmp_path: Path) -> None:
    reply = Reply("a\u2028b \U0001f600", "length", Usage(3, 4), "m-1", 0.25, 0.5)
    with Ledger(tmp_path / "l.jsonl") as ledger:
        settle(ledger, "one", reply)
        settle(ledger, "two", Failure("server", "HTTP 500"))
    with Ledger(tmp_path / "l.jsonl") as ledger:
        assert ledger.reply(request("one").content_key()) == reply
        assert ledger.reply(request("two").content_key()) is None
        settle(ledger, "two", Reply("late"))
        assert ledger.totals().replies == 2
        assert ledger.totals().cost_usd is None  # one reply has no price
    with Ledger(tmp_path / "l.jsonl") as ledger:
        assert ledger.reply(request("two").content_key()) == Reply("late")


def test_ledger_cut_at_any_byte_keeps_every_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # hundreds of them take long on some disks
    path = tmp_path / "l.jsonl"
    with Ledger(path) as ledger:
        for text in ("one", "two", "three"):
            settle(ledger, text, Reply("Antwort: ä\n"))
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Ledger(path) as ledger:
            assert len(ledger.outcomes) == whole[:cut].count(b"\n")
            settle(ledger, "four", Reply("4"))
        lines = path.read_bytes().splitlines()
        assert json.loads(lines[-1])["reply"] == "4"
        assert len(lines) == whole[:cut].count(b"\n") + 1


@pytest.mark.parametrize(
    "damage", [b"\x00\x00\x00\n", b"[]\n", b'{"key": "x"}\n', b"\n", b'{"reply": 1}\n', b"\xff\n"]
)
def test_damaged_line_in_the_middle_costs_only_itself(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "l.jsonl"
    with Ledger(path) as ledger:
        settle(ledger, "one", Reply("1"))
    path.write_bytes(damage + path.read_bytes() + damage)
    with Ledger(path) as ledger:
        assert ledger.reply(request("one").content_key()) == Reply("1")
    assert path.read_bytes().count(b"\n") == 1


def test_content_key_tells_what_is_asked_and_nothing_else() -> None:
    base = Request("a", (Message("user", "x"),), 0.0, 10, 1, {"task": "complete"})
    assert base.content_key() == Request("b", (Message("user", "x"),), 0.0, 10, 1).content_key()
    others = [
        Request("a", (Message("system", "x"),), 0.0, 10, 1),
        Request("a", (Message("user", "y"),), 0.0, 10, 1),
        Request("a", (Message("user", "x"),), 0.5, 10, 1),
        Request("a", (Message("user", "x"),), 0.0, 11, 1),
        Request("a", (Message("user", "x"),), 0.0, 10, 2),
        Request("a", (Message("user", "x"),), 0.0, 10, None),
    ]
    assert len({r.content_key() for r in (base, *others)}) == len(others) + 1


# ---------------------------------------------------------------- limiter


def starts_of(limiter: Limiter, tokens: list[int], gaps: list[float]) -> list[float]:
    """Starting times of requests that ask for leave so many seconds after each other."""
    now, starts = 100.0, []
    for n, gap in zip(tokens, gaps, strict=True):
        now += gap
        starts.append(limiter.reserve(now, n))
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


def test_unused_tokens_are_given_back() -> None:
    limiter = Limiter(None, 60)  # a token a second
    assert limiter.reserve(0, 30) == 0
    limiter.correct(30, Usage(5, 5))
    assert limiter.reserve(0, 1) == pytest.approx(10)


def test_hold_stops_every_start() -> None:
    limiter = Limiter(None, None)
    limiter.hold(50)
    limiter.hold(20)
    assert limiter.reserve(10, 1) == 50
    assert limiter.reserve(60, 1) == 60


def test_estimate_counts_text_and_answer() -> None:
    assert estimate_tokens(Request("a", (Message("user", "x" * 350),), max_tokens=50)) == 150
