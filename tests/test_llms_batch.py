"""Batches over the real SDKs and a real server: nothing is lost, nothing is paid twice, whatever happens."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from runtime.declare import LLM
from runtime.job import JobError
from runtime.llms import batch, batch_log, client
from runtime.llms.base import Failure, Outcome, Reply, Request
from runtime.llms.batch_log import BatchLog, open_batches
from runtime.llms.batch_openai import OpenAiBatches
from runtime.llms.client import ask_all
from runtime.llms.ledger import Ledger
from runtime.llms.shared import Shelf
from tests.batch_server import BatchServer, Call, CutOff, Fate, Refused
from tests.test_llms_client import echo, requests, texts

pytestmark = pytest.mark.sdk


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and no proxy between us and ourselves."""
    for module, name, value in (
        (client, "BACKOFF_S", 0.001),
        (batch, "FIRST_POLL_S", 0.002),
        (batch, "LANDING_S", 0.01),
        (batch, "SILENCES", 5),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(echo) as running:
        yield running


@pytest.fixture(params=["openai", "anthropic"])
def llm(request: pytest.FixtureRequest, server: BatchServer) -> Callable[..., LLM]:
    """Declares an llm of either vendor at the server."""
    return lambda **more: declare(request.param, getattr(server, request.param), **more)


def declare(provider: str, url: str, **more: Any) -> LLM:
    limits = {"timeout_s": 5, "attempts": 3} | more.pop("limits", {})
    value = {"provider": provider, "model": "judge", "base_url": url, "mode": "batch", "limits": limits,
             "usd_per_million_input": 2.0, "usd_per_million_output": 10.0, **more}  # fmt: skip
    return TypeAdapter[LLM](LLM).validate_python(value)


def ask(llm: LLM, asked: list[Request], folder: Path) -> dict[str, Outcome]:
    with Ledger(folder / "ledger.jsonl") as ledger:
        return ask_all(llm, asked, ledger)


def answered(n: int) -> dict[str, str]:
    return {f"r{i}": f"re: question {i}" for i in range(n)}


def once(n: int) -> dict[str, int]:
    return {f"question {i}": 1 for i in range(n)}


def test_live_and_batch_leave_the_same_ledger_and_a_batch_costs_half(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    def lines(mode: str) -> dict[str, dict[str, Any]]:
        outcomes = ask(llm(mode=mode, system="Be kind."), requests(8), tmp_path / mode)
        assert texts(outcomes) == answered(8)
        rows = map(json.loads, (tmp_path / mode / "ledger.jsonl").read_text().splitlines())
        return {row["id"]: {**row, "time": 0, "latency_s": 0} for row in rows}

    live, batched = lines("live"), lines("batch")
    assert batched.keys() == live.keys()
    for id_, row in live.items():
        assert batched[id_] == {**row, "cost_usd": pytest.approx(row["cost_usd"] / 2)}
    assert len(server.batches) == 1
    assert "Be kind." in json.dumps(next(iter(server.batches[0].asked.values())))
    assert not open_batches(tmp_path / "batch" / "batches.jsonl")


def test_large_sets_are_split(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for vendor in (OpenAiBatches, batch_anthropic()):
        monkeypatch.setattr(vendor, "most_rows", 4)
    assert texts(ask(llm(), requests(10), tmp_path / "rows")) == answered(10)
    assert sorted(len(b.asked) for b in server.batches) == [2, 4, 4]
    for vendor in (OpenAiBatches, batch_anthropic()):
        monkeypatch.setattr(vendor, "most_bytes", 400)  # two rows
    server.batches.clear()
    ask(llm(), requests(6), tmp_path / "bytes")
    assert len(server.batches) >= 3 and server.paid == {f"question {i}": 1 + (i < 6) for i in range(10)}


def batch_anthropic() -> Any:
    from runtime.llms.batch_anthropic import AnthropicBatches

    return AnthropicBatches


def test_answers_of_a_batch_are_shared(server: BatchServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    for job in ("one", "two"):
        shelf = Shelf(tmp_path / "answers", "label", job)
        with Ledger(tmp_path / job / "ledger.jsonl", shelf=shelf) as ledger:
            assert texts(ask_all(llm(), requests(4), ledger)) == answered(4)
    assert server.paid == once(4) and len(server.batches) == 1


FATES: dict[str, tuple[Fate, str]] = {
    "expired": ("expired", "expired"),
    "missing": ("missing", "missing"),
    "server": ((500, "api_error", "down"), "server"),
    "overloaded": ((529, "overloaded_error", "busy"), "rate_limit"),
}


@pytest.mark.parametrize("name", FATES)
def test_rows_that_came_to_nothing_are_asked_again(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path, name: str
) -> None:
    """Row 1 succeeds in the second batch, row 2 never; the others are asked once."""
    fate, kind = FATES[name]

    def fates(text: str) -> Fate:
        again = len(server.batches) > 1
        return fate if text == "question 2" or (text == "question 1" and not again) else "ok"

    server.fate = fates
    outcomes = ask(llm(), requests(5), tmp_path)
    assert texts(outcomes) == answered(5) | {"r2": f"!{kind}"}
    assert [len(b.asked) for b in server.batches] == [5, 2, 1]
    assert server.paid == {k: 1 for k in once(5) if k != "question 2"}
    attempts = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert {row["id"]: row["attempts"] for row in attempts} == {"r0": 1, "r1": 2, "r2": 3, "r3": 1, "r4": 1}
    server.fate = lambda text: "ok"  # a failure is asked again by the next run, a reply is not
    assert texts(ask(llm(), requests(5), tmp_path)) == answered(5)
    assert server.paid == once(5) and len(server.batches) == 4


def test_a_bad_row_is_left_out(server: BatchServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    bad: Fate = (400, "invalid_request_error", "too long")
    server.fate = lambda text: bad if text == "question 3" else "ok"
    failure = ask(llm(), requests(5), tmp_path)["r3"]
    assert isinstance(failure, Failure) and failure.kind == "bad_request" and "too long" in failure.message
    assert len(server.batches) == 1
    assert ask(llm(), requests(5), tmp_path)["r3"] == failure  # asked again, alone
    assert len(server.batches) == 2


def test_doubled_damaged_and_unknown_rows(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    """The results are read again where a line is torn; a line that stays torn is a missing row."""
    reads: list[int] = []

    def spoil(lines: list[str]) -> list[str]:
        reads.append(len(lines))
        stranger = lines[0].replace(json.loads(lines[0])["custom_id"], "stranger-0")
        torn = [line[:40] if "question 1" in line else line for line in lines]
        return [stranger, lines[-1].replace("-0", "-99"), *(torn if len(server.batches) == 1 else lines)]

    server.fate = lambda text: "doubled"
    server.spoil = spoil
    assert texts(ask(llm(), requests(4), tmp_path)) == answered(4)
    assert [len(b.asked) for b in server.batches] == [4, 1] and len(reads) == 4
    ids = [json.loads(line)["id"] for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert sorted(ids) == ["r0", "r1", "r2", "r3"]


def test_line_separators_inside_a_reply_end_no_line(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    server.answer = lambda seen: "a\u2028b\x85c"
    server.spoil = lambda lines: [json.dumps(json.loads(line), ensure_ascii=False) for line in lines]
    assert texts(ask(llm(), requests(1), tmp_path)) == {"r0": "a\u2028b\x85c"}


def test_nothing_but_failures_stops_the_run(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    server.fate = lambda text: (400, "invalid_request_error", "max_tokens is too large")
    with pytest.raises(JobError, match="every request failed; the last one: bad_request"):
        ask(llm(), requests(3), tmp_path)
    server.fate = lambda text: (401, "authentication_error", "no")
    with pytest.raises(JobError, match=r"key in .*_API_KEY was refused"):
        ask(llm(), requests(3), tmp_path / "key")


def test_a_cancelled_batch_keeps_its_answers(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    def cancel(call: Call) -> None:
        server.batches[0].cancelled |= bool(server.batches) and not server.batches[0].ended

    server.script = lambda call: cancel(call) if server.batches else None
    with pytest.raises(JobError, match=r"batch_0 was cancelled: 2 of its 4 rows were not asked"):
        ask(llm(), requests(4), tmp_path)
    assert texts(ask(llm(), requests(4), tmp_path)) == answered(4)
    assert server.paid == once(4) and len(server.batches) == 2


def test_live_ends_what_is_under_way_and_asks_the_rest_at_once(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    die(server, llm(), tmp_path, at=lambda call: server.batches and call.method == "GET")
    assert texts(ask(llm(mode="live"), requests(6), tmp_path)) == answered(6)
    assert server.paid == once(6) and server.batches[0].cancelled
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    dear, cheap = sorted({line["cost_usd"] for line in lines}, reverse=True)
    assert dear == 2 * cheap  # each at the price that was paid
    assert sum(call.path.endswith(("/messages", "/completions")) for call in server.calls) == 3


@pytest.mark.parametrize("mode", ["batch", "live"])
def test_a_batch_that_nobody_needs_is_ended(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path, mode: str
) -> None:
    """While it was under way, another job was told all of it: what it has answered is kept all the same."""
    die(server, llm(), tmp_path, at=lambda call: server.batches and call.method == "GET")
    for job, how in (("other", "live"), (".", mode)):
        with Ledger(tmp_path / job / "ledger.jsonl", shelf=Shelf(tmp_path / "a", "label", job)) as ledger:
            assert texts(ask_all(llm(mode=how), requests(6), ledger)) == answered(6)
    assert (ledger.totals().replies, ledger.totals().shared) == (3, 3)
    assert server.batches[0].cancelled and sum(server.paid.values()) == 6 + 3
    assert not open_batches(tmp_path / "batches.jsonl") and len(server.batches) == 1


def test_too_much_for_the_queue_is_sent_in_parts(server: BatchServer, tmp_path: Path) -> None:
    server.most_waiting = 3
    llm = declare("openai", server.openai)
    assert texts(ask(llm, requests(10), tmp_path)) == answered(10)
    assert server.paid == once(10)
    server.most_waiting = 0
    with pytest.raises(JobError, match="one request alone is too much for the account's queue"):
        ask(llm, requests(2), tmp_path / "none")


def test_a_refused_batch_stops_the_run(server: BatchServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    def script(call: Call) -> None:
        if call.method == "POST":
            raise Refused(401, "no")

    server.script = script
    with pytest.raises(JobError, match="was refused"):
        ask(llm(), requests(3), tmp_path)
    server.script = lambda call: None
    assert texts(ask(llm(), requests(3), tmp_path)) == answered(3)


def test_a_silent_provider_keeps_the_batch(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    def script(call: Call) -> None:
        if call.method == "GET":
            raise Refused(503, "down")

    server.script = script
    with pytest.raises(JobError, match="nothing is to be heard of a batch: HTTP 503"):
        ask(llm(), requests(3), tmp_path)
    server.script = lambda call: None
    assert texts(ask(llm(), requests(3), tmp_path)) == answered(3)
    assert server.paid == once(3)


def test_a_batch_that_is_gone_can_be_given_up(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    die(server, llm(), tmp_path, at=lambda call: server.batches and call.method == "GET")
    server.batches.clear()
    with pytest.raises(JobError, match=r"(?s)no batch batch_0.*remove .*/batches\.jsonl"):
        ask(llm(), requests(6), tmp_path)
    (tmp_path / "batches.jsonl").unlink()
    assert texts(ask(llm(), requests(6), tmp_path)) == answered(6)


def test_a_server_without_batches_is_told(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    def script(call: Call) -> None:
        if call.path.endswith(("/files", "/batches")):
            raise Refused(404, "not found")

    server.script = script
    with pytest.raises(JobError, match=r"(?s)has no batches.*set `mode: live`"):
        ask(llm(), requests(3), tmp_path)
    assert texts(ask(llm(mode="live"), requests(3), tmp_path)) == answered(3)


# ---------------------------------------------------------------- kills


class Killed(BaseException):
    """Ends the process as the test has it: no handler of the code sees it."""


def die(server: BatchServer, llm: LLM, folder: Path, at: Callable[[Call], Any]) -> bool:
    """Ask 6 questions and be cut off at a call; every later call is cut off too. Whether it came to that."""
    dead: list[Call] = []

    def script(call: Call) -> None:
        if dead or at(call):
            dead.append(call)
            raise CutOff

    server.script = script
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ask(llm, requests(6), folder)
    except JobError:
        pass
    finally:
        server.script = lambda call: None
        signal.signal(signal.SIGTERM, stop)
    return bool(dead)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_that_loses_its_provider_at_any_call_pays_once(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path, after: bool
) -> None:
    """Cut off before the server did what it was asked, or before it could say so."""
    for number in range(99):
        folder = tmp_path / str(number)
        server.batches.clear()
        server.paid.clear()
        seen: list[Call] = []

        def at(call: Call, seen: list[Call] = seen, number: int = number) -> bool:
            seen.append(call)
            return call.after is after and sum(c.after is after for c in seen) > number

        came = die(server, llm(), folder, at)
        assert texts(ask(llm(), requests(6), folder)) == answered(6)
        assert server.paid == once(6), f"cut off at call {number}"
        if not came:
            break
    assert number >= 5


def test_a_run_killed_at_any_write_pays_once(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after each line of the log and of the ledger."""
    llm = declare("openai", server.openai)
    steps: list[int] = []
    limit = 0

    def mortal(write: Callable[..., None]) -> Callable[..., None]:
        def run(*words: Any) -> None:
            steps.append(0)
            if len(steps) > limit:
                raise Killed
            write(*words)
            steps.append(0)
            if len(steps) > limit:
                raise Killed

        return run

    monkeypatch.setattr(BatchLog, "_write", mortal(BatchLog._write))
    monkeypatch.setattr(Ledger, "append", mortal(Ledger.append))
    for number in range(99):
        server.batches.clear()
        server.paid.clear()
        steps.clear()
        limit, folder = number, tmp_path / str(number)
        whole = True
        try:
            ask(llm, requests(3), folder)
        except* Killed:
            whole = False
        limit = 9999
        assert texts(ask(llm, requests(3), folder)) == answered(3)
        assert server.paid == once(3), f"killed at step {number}"
        assert not open_batches(folder / "batches.jsonl")
        if whole:
            break
    assert number == 2 * (3 + 3)  # meant, made, settled, and three replies


def test_a_full_disk_pays_once(server: BatchServer, tmp_path: Path) -> None:
    """Full at any line of the log or the ledger, and in the middle of them."""
    llm = declare("openai", server.openai)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for full in range(50, 1500, 290):
        server.batches.clear()
        server.paid.clear()
        folder = tmp_path / str(full)
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))
        try:
            with pytest.raises(JobError, match="an answer cannot be stored"):
                ask(llm, requests(6), folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert texts(ask(llm, requests(6), folder)) == answered(6)
        assert server.paid == once(6) and not open_batches(folder / "batches.jsonl")


PROGRAM = """
import sys
from pathlib import Path
from runtime.llms import batch
from tests.test_llms_batch import ask, declare, requests

batch.FIRST_POLL_S = 0.01
ask(declare(sys.argv[1], sys.argv[2]), requests(6), Path(sys.argv[3]))
"""


def test_kill_nine_while_it_waits(server: BatchServer, tmp_path: Path) -> None:
    server.steps = 10_000
    me = declare("anthropic", server.anthropic)
    words = [sys.executable, "-c", PROGRAM, "anthropic", server.anthropic, str(tmp_path)]
    running = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": "."})

    def script(call: Call) -> None:
        if call.method == "GET":
            running.send_signal(signal.SIGKILL)

    server.script = script
    assert running.wait(60) == -signal.SIGKILL
    server.script = lambda call: None
    server.batches[0].steps = 2
    assert texts(ask(me, requests(6), tmp_path)) == answered(6)
    assert server.paid == once(6) and len(server.batches) == 1


def test_batches_of_others_are_not_taken_for_ones_own(
    server: BatchServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    """Two runs with batches of one size, and neither heard that its own was made."""
    server.steps = 9
    for name in ("ours", "theirs"):
        die(server, llm(), tmp_path / name, lambda call: call.after and call.path.endswith("/batches"))
    assert len(server.batches) == 2
    for name in ("ours", "theirs"):
        assert texts(ask(llm(), requests(6), tmp_path / name)) == answered(6)
    assert len(server.batches) == 2 and server.paid == dict.fromkeys(once(6), 2)


# ---------------------------------------------------------------- the log


def test_a_torn_log_is_repaired(tmp_path: Path) -> None:
    log = BatchLog(path := tmp_path / "batches.jsonl")
    made = log.made(log.meant("t", ["a", "b"], 0.5), "batch_1")
    with path.open("a") as file:
        file.write('{"event": "sett')
    assert open_batches(path) == {"t": made} and path.read_text().endswith("sett")  # a reader leaves it alone
    log = BatchLog(path)
    log.settled(log.open["t"], ["b"])
    again = BatchLog(path)
    assert not again.open and again.tries == {"b": 1} and again.ids == {"batch_1"}
    assert batch_log.in_batches(declare("openai", "u"), path)
    assert not batch_log.in_batches(declare("openai", "u", mode="live"), path.with_name("ledger.jsonl"))


def test_replies_count_once(tmp_path: Path, server: BatchServer, llm: Callable[..., LLM]) -> None:
    told: list[tuple[int, int, str]] = []
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        outcomes = ask_all(llm(), requests(4), ledger, lambda *words: told.append(words))
    assert all(isinstance(outcome, Reply) for outcome in outcomes.values())
    assert told[-1] == (4, 4, "$0.00") and "1 batch in_progress" in told[0][2]
