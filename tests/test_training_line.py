"""A job and its ranks on the line: who is heard first, who goes without a word, who is asked to stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.training.line import DONE, FAILED, INTERRUPTED, PORT, End, Exchange

RANK = """
import signal, sys, time
from runtime.training.line import Line
heard = []
signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
line = Line(int(sys.argv[1]), f"n{sys.argv[1]}")
print("up", flush=True)
exec(sys.argv[2])
"""
WAITS = "while not heard: time.sleep(0.01)\nline.end(5)"


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    opened = Exchange()
    yield opened
    opened.close()


def start(exchange: Exchange, rank: int, does: str) -> subprocess.Popen[str]:
    """A rank that is on the line."""
    environment = {**os.environ, **exchange.environment(), "MASTER_ADDR": "127.0.0.1"}
    words = [sys.executable, "-c", RANK, str(rank), does]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def hear(exchange: Exchange, count: int) -> list[End]:
    ends: list[End] = []
    deadline = time.monotonic() + 30
    while len(ends) < count:
        assert time.monotonic() < deadline
        ends += exchange.listen(0.1)
    return ends


def test_ends_are_heard_in_their_order(exchange: Exchange) -> None:
    start(exchange, 1, "line.end(0)")
    assert hear(exchange, 1) == [End(1, "n1", DONE)]
    failing = start(exchange, 0, "line.end(1, 'broken', 'its traceback')")
    assert hear(exchange, 1) == [End(0, "n0", FAILED, "broken", "its traceback")]
    assert failing.poll() is None, "one that failed stays, so that its end disturbs nobody"
    exchange.close()
    assert failing.wait(30) == 0


def test_who_is_killed_comes_before_those_who_complain_of_it(exchange: Exchange) -> None:
    ranks = [start(exchange, rank, "time.sleep(60)") for rank in (0, 1)]
    exchange.listen(0.1)
    exchange.listen(0.1)
    complains = start(exchange, 2, "line.end(1, 'connection reset', 'trace')")
    ranks[1].kill()
    ranks[1].wait()
    time.sleep(0.2)
    assert [(end.rank, end.code) for end in hear(exchange, 2)] == [(1, None), (2, FAILED)]
    exchange.close()
    assert [process.wait(30) for process in (ranks[0], complains)] == [0, 0]


def test_all_are_asked_to_stop_and_who_comes_late_too(exchange: Exchange) -> None:
    start(exchange, 0, WAITS)
    exchange.listen(1)
    exchange.listen(1)
    exchange.stop()
    start(exchange, 1, WAITS)
    assert {(end.rank, end.code) for end in hear(exchange, 2)} == {(0, INTERRUPTED), (1, INTERRUPTED)}


STRANGERS: list[Any] = [
    {"token": "guess", "rank": 0, "host": ""},
    {"token": 3, "rank": 0, "host": ""},
    {"rank": 0},
    [],
    "GET / HTTP/1.1",
]


@pytest.mark.parametrize("says", STRANGERS)
def test_a_stranger_is_sent_away(exchange: Exchange, says: Any) -> None:
    told = exchange.environment()
    with socket.create_connection(("127.0.0.1", int(told[PORT]))) as connection:
        connection.sendall(f"{says if isinstance(says, str) else json.dumps(says)}\n".encode())
        assert [end for _ in range(4) for end in exchange.listen(0.1)] == []
        assert connection.recv(1) == b""


def test_a_rank_ends_with_its_job() -> None:
    serve = (
        "import json, sys, time\nfrom runtime.training.line import Exchange\n"
        "exchange = Exchange()\nprint(json.dumps(exchange.environment()), flush=True)\n"
        "while True: exchange.listen(1)"
    )
    job = subprocess.Popen([sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    told = json.loads(job.stdout.readline())

    class Other:
        def environment(self) -> dict[str, str]:
            return dict(told)

    rank = start(Other(), 0, "time.sleep(60)")  # type: ignore[arg-type]
    job.send_signal(signal.SIGKILL)
    assert rank.wait(30) == 0
    job.wait()
