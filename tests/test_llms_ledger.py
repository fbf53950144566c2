"""The ledger: nothing settled is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.llms.base import Failure, Message, Outcome, Reply, Request, Usage
from runtime.llms.ledger import Ledger


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


def test_ledgers_of_before_are_read(tmp_path: Path) -> None:
    """Lines as the first release wrote them."""
    key = request("one").content_key()
    old = {
        "id": "r0", "key": key, "attempts": 1, "time": 1.5, "reply": "yes", "finish_reason": "stop",
        "input_tokens": 3, "output_tokens": 4, "model": "m-1", "latency_s": 0.25, "cost_usd": 0.5,
    }  # fmt: skip
    failed = {
        "id": "r1",
        "key": "k",
        "attempts": 6,
        "time": 2.5,
        "failure": {"kind": "server", "message": "5"},
    }
    (tmp_path / "l.jsonl").write_text(f"{json.dumps(old)}\n{json.dumps(failed)}\n")
    with Ledger(tmp_path / "l.jsonl") as ledger:
        assert ledger.reply(key) == Reply("yes", "stop", Usage(3, 4), "m-1", 0.25, 0.5)
        assert ledger.outcomes["k"] == Failure("server", "5")


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


def test_two_writers_find_their_own_lines(tmp_path: Path) -> None:
    """As where one job was taken for dead."""
    with Ledger(tmp_path / "l.jsonl") as one, Ledger(tmp_path / "l.jsonl") as two:
        for i, ledger in enumerate((one, two, two, one)):
            settle(ledger, f"{i}", Reply("x" * i))
        own = [one.reply(request("0").content_key()), one.reply(request("3").content_key())]
        assert own == [Reply(""), Reply("xxx")]
    with Ledger(tmp_path / "l.jsonl") as both:
        assert len(both.outcomes) == 4


def test_a_paid_refusal_counts_though_it_was_answered_later(tmp_path: Path) -> None:
    for _ in range(2):
        with Ledger(tmp_path / "l.jsonl") as ledger:
            settle(ledger, "one", Failure("refused", "no", Usage(3, 1), 0.25))
            settle(ledger, "one", Reply("yes", usage=Usage(3, 1), cost_usd=0.25))
            assert ledger.totals().cost_usd == ledger.usd
    assert ledger.usd == 1.0


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
