"""The client over the real SDKs and a real server: each request is settled once, whatever happens."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from runtime.declare import LLM
from runtime.job import JobError
from runtime.llms import client
from runtime.llms.base import Failure, Fatal, Message, Outcome, Reply, Request, Retryable, Skipped
from runtime.llms.client import addressed, ask_all, backoff_s
from runtime.llms.http import meaning, retry_after_s, told
from runtime.llms.ledger import Ledger
from tests.judge_server import (
    Fault,
    JudgeServer,
    Seen,
    anthropic_reply,
    error,
    openai_reply,
    rate_limited,
)

KEY = "sk-test-4b1f9c0d2e7a"

pytestmark = pytest.mark.sdk


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short back-off, a key, and no proxy between us and ourselves."""
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as running:
        yield running


@pytest.fixture(params=["openai", "anthropic"])
def llm(request: pytest.FixtureRequest, server: JudgeServer) -> Callable[..., LLM]:
    """Declares an llm of either protocol at the server."""
    provider: str = request.param

    def declare(**more: Any) -> LLM:
        limits = {"concurrency": 8, "timeout_s": 5, "attempts": 6} | more.pop("limits", {})
        value = {"provider": provider, "model": "judge", "base_url": getattr(server, provider),
                 "api_key_env": "TEST_KEY", "limits": limits, **more}  # fmt: skip
        return TypeAdapter[LLM](LLM).validate_python(value)

    return declare


def requests(n: int) -> list[Request]:
    return [Request(f"r{i}", (Message("user", f"question {i}"),), max_tokens=20) for i in range(n)]


def texts(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {id_: o.text if isinstance(o, Reply) else f"!{o.kind}" for id_, o in outcomes.items()}


def echo(seen: Seen) -> str:
    return f"re: {seen.text}"


def ask(llm: LLM, asked: list[Request], path: Path) -> dict[str, Outcome]:
    with Ledger(path) as ledger:
        return ask_all(llm, asked, ledger)


def settled(path: Path) -> Counter[str]:
    return Counter(json.loads(line)["id"] for line in path.read_text().splitlines())


# ---------------------------------------------------------------- answers


def test_every_request_is_answered_once(server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    server.answer = echo
    declared = llm(usd_per_million_input=2.0, usd_per_million_output=10.0)
    outcomes = ask(declared, requests(50), tmp_path / "l")
    assert texts(outcomes) == {f"r{i}": f"re: question {i}" for i in range(50)}
    assert len(server.seen) == 50 and server.most_at_once <= 8
    assert settled(tmp_path / "l") == Counter(outcomes.keys())
    reply = outcomes["r0"]
    assert isinstance(reply, Reply)
    assert reply.model == "judge-snapshot"
    assert reply.cost_usd == pytest.approx((2 * 2.0 + 4 * 10.0) / 1e6)
    assert reply.latency_s > 0


def test_what_is_sent(server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    asked = Request(
        "a", (Message("system", "Template."), Message("user", "Hi")), temperature=0.25, max_tokens=7, seed=3
    )
    ask(llm(system="Declared."), [asked], tmp_path / "l")
    (seen,) = server.seen
    body = seen.body
    assert body["model"] == "judge" and body["temperature"] == 0.25 and body["max_tokens"] == 7
    if seen.path == "/v1/messages":
        assert body["system"] == "Declared.\n\nTemplate."
        assert body["messages"] == [{"role": "user", "content": "Hi"}]
    else:
        assert body["messages"][0] == {"role": "system", "content": "Declared.\n\nTemplate."}
        assert body["seed"] == 3
    assert KEY in seen.headers.get("authorization", "") + seen.headers.get("x-api-key", "")


def test_equal_requests_are_asked_once(server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    same = [Request(f"r{i}", (Message("user", "the same"),)) for i in range(5)]
    outcomes = ask(llm(), same, tmp_path / "l")
    assert len(server.seen) == 1 and len(outcomes) == 5 and len(set(map(id, outcomes.values()))) == 1
    assert settled(tmp_path / "l") == Counter(["r0"])


def test_answered_requests_are_not_asked_again(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    told_of: list[tuple[int, int]] = []
    ask(llm(), requests(5), tmp_path / "l")
    with Ledger(tmp_path / "l") as ledger:
        outcomes = ask_all(
            llm(), requests(8), ledger, lambda done, total, text: told_of.append((done, total))
        )
    assert len(server.seen) == 8 and len(outcomes) == 8
    assert told_of == [(6, 8), (7, 8), (8, 8)]


def test_two_requests_of_one_id_are_refused(llm: Callable[..., LLM], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same id"):
        ask(llm(), [*requests(1), *requests(1)], tmp_path / "l")


# ---------------------------------------------------------------- bad days


@dataclass(frozen=True)
class Day:
    """What befalls the first `tries` tries of every third request, and how these end.

    fault: the same for both protocols, or made for each. ends: the kind of the failure; empty: answered.
    """

    fault: Fault | Callable[[Seen], Fault]
    tries: int = 1
    ends: str = ""
    every: int = 3
    limits: dict[str, float] = field(default_factory=dict[str, float])


def dated(skew_s: float) -> Callable[[Seen], Fault]:
    """A 429 until now, by a clock that is so much ahead of ours."""

    def fault(seen: Seen) -> Fault:
        now = formatdate(time.time() + skew_s, usegmt=True)
        return Fault(429, {"date": now, "retry-after": now}, {"error": {"message": "slow down"}})

    return fault


def answered(**more: Any) -> Callable[[Seen], Fault]:
    """A proper answer but for some fields: of Anthropic's message, or of OpenAI's (`choices`)."""

    def fault(seen: Seen) -> Fault:
        make = anthropic_reply if seen.path.endswith("/messages") else openai_reply
        return Fault(200, body=make(seen, "") | more)

    return fault


def choice(reason: str, **message: Any) -> list[dict[str, Any]]:
    said = {"role": "assistant", "content": None, **message}
    return [{"index": 0, "finish_reason": reason, "message": said}]


EVER = 99
NO_TIME = Fault(429, body={"error": {"message": "slow down"}})
DAYS = {
    "429s with a time": Day(rate_limited(0.05), 2),
    "429s without a time": Day(NO_TIME, 2),
    "429s for all, thrice": Day(NO_TIME, 3, every=1),
    "429s for all with times, thrice": Day(rate_limited(0.02), 3, every=1),
    "429s for ever": Day(NO_TIME, EVER, "rate_limit"),
    "429s of a clock an hour fast": Day(dated(3600), 2),
    "429s of a clock an hour slow": Day(dated(-3600), 2),
    "overloaded": Day(error(529, "overloaded"), 2),
    "500s": Day(error(500), 3),
    "503s that ask for a pause": Day(Fault(503, {"retry-after": "0.05"}, {}), 2),
    "503s for ever": Day(error(503), EVER, "server"),
    "bad gateway in HTML": Day(Fault(502, {"content-type": "text/html"}, "<html>bad gateway</html>"), 2),
    "resets": Day(Fault(reset=True), 3),
    "resets for ever": Day(Fault(reset=True), EVER, "connection"),
    "cut off halfway": Day(Fault(torn=True), 2),
    "silence": Day(Fault(slow=60), 1, limits={"stall_s": 1}),
    "silence for ever": Day(Fault(slow=60), EVER, "timeout", limits={"stall_s": 0.4, "attempts": 2}),
    "a slow drip": Day(Fault(drip=0.1), 1, limits={"timeout_s": 1}),
    "JSON cut off": Day(Fault(200, body='{"choices": [{"message"'), 2),
    "not JSON by its type": Day(Fault(200, {"content-type": "text/plain"}, "busy"), 2),
    "another shape": Day(Fault(200, body={"hello": 1}), 2),
    "no text": Day(answered(choices=choice("stop"), content=[{"type": "text", "text": None}]), 2),
    "500s of half a character": Day(error(500, "no \ud83d"), EVER, "server"),
    "a pause until a time long past": Day(Fault(429, {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}), 2),
    "no number of tokens": Day(answered(usage={"prompt_tokens": [1], "input_tokens": [1]}), 2),
    "endless tokens": Day(answered(usage={"prompt_tokens": 1e999, "input_tokens": 1e999}), 2),
    "nested without end": Day(Fault(200, body="[" * 100_000), 2),
    "a list": Day(Fault(200, body=[1])),
    "null": Day(Fault(200, body=None)),
    "nothing in it": Day(answered(choices=[], content=[]), 2),
    "nothing in it for ever": Day(answered(choices=[], content=[]), EVER, "bad_reply"),
    "a refusal": Day(
        answered(choices=choice("stop", refusal="I will not"), content=[], stop_reason="refusal"),
        EVER,
        "refused",
    ),
    "filtered before": Day(error(400, "flagged", code="content_filter"), EVER, "content_filter"),
    "500s that quote the key": Day(error(500, f"no {KEY}"), EVER, "server"),
    "malformed": Day(error(400, "no such role"), EVER, "bad_request"),
}
ASKED_ONCE = {"refused", "content_filter", "bad_request"}


@pytest.mark.parametrize("name", DAYS)
def test_bad_days(server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path, name: str) -> None:
    """One settled row for each request, none lost, none asked more often than `attempts` says."""
    day, seen_of = DAYS[name], Counter[str]()

    def script(number: int, seen: Seen) -> Fault | None:
        seen_of[seen.text] += 1
        if int(seen.text.removeprefix("question ")) % day.every or seen_of[seen.text] > day.tries:
            return None
        return day.fault if isinstance(day.fault, Fault) else day.fault(seen)

    server.answer, server.script = echo, script
    declared = llm(limits={"concurrency": 4, "attempts": 4, "timeout_s": 30, **day.limits})
    outcomes = ask(declared, requests(12), tmp_path / "l")

    struck = {f"r{i}" for i in range(0, 12, day.every)}
    good = {f"r{i}": f"re: question {i}" for i in range(12)}
    assert texts(outcomes) == good | (dict.fromkeys(struck, f"!{day.ends}") if day.ends else {})
    assert settled(tmp_path / "l") == Counter(good.keys())
    assert KEY not in (tmp_path / "l").read_text()
    most = 1 if day.ends in ASKED_ONCE else min(day.tries + 1, int(day.limits.get("attempts", 4)))
    lines = [json.loads(line) for line in (tmp_path / "l").read_text().splitlines()]
    assert {line["id"]: line["attempts"] for line in lines} == {
        id_: most if id_ in struck else 1 for id_ in good
    }
    assert seen_of == {f"question {line['id'][1:]}": line["attempts"] for line in lines}

    server.script, before = None, len(server.seen)
    assert texts(ask(declared, requests(12), tmp_path / "l")) == good
    assert len(server.seen) - before == (len(struck) if day.ends else 0)  # only failures are asked again


def test_ledger_lines_can_be_audited(server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    """What the provider said of itself stands in the line; refusals are paid, so their tokens do too."""
    declared = llm(usd_per_million_input=2.0, usd_per_million_output=10.0)
    refusal = DAYS["a refusal"].fault
    assert not isinstance(refusal, Fault)
    server.answer = echo
    server.script = lambda number, seen: refusal(seen) if seen.text == "question 1" else None
    with Ledger(tmp_path / "l") as ledger:
        ask_all(declared, requests(2), ledger)
        assert ledger.totals().cost_usd == pytest.approx(2 * (2 * 2.0 + 4 * 10.0) / 1e6)
    replied, refused = sorted(
        (json.loads(line) for line in (tmp_path / "l").read_text().splitlines()), key=lambda line: line["id"]
    )
    told = {"id": "r0", "reply": "re: question 0", "finish_reason": "stop", "model": "judge-snapshot"}
    paid = {"attempts": 1, "input_tokens": 2, "output_tokens": 4, "cost_usd": 4.4e-05}
    assert replied.items() >= (told | paid).items()
    assert replied["raw"]["id"] in ("c", "m") and replied["raw"]["request_id"] in ("q0", "q1")
    counted = {"prompt_tokens", "input_tokens"} & replied["raw"]["usage"].keys()
    assert [replied["raw"]["usage"][name] for name in counted] == [2]
    assert refused.items() >= ({"id": "r1"} | paid).items() and refused["failure"]["kind"] == "refused"


@pytest.mark.parametrize(("price", "usd"), [(0.5, 400 * 2 + 600 * 0.5 + 10 * 10), (None, 1000 * 2 + 10 * 10)])
def test_input_in_the_providers_cache_costs_less_where_its_price_is_known(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path, price: float | None, usd: float
) -> None:
    """OpenAI counts cached tokens among the others, Anthropic apart."""
    openai = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    anthropic = {"input_tokens": 300, "output_tokens": 10, "cache_read_input_tokens": 600,
                 "cache_creation_input_tokens": 100}  # fmt: skip
    fault = answered(
        usage=openai | anthropic,
        content=[{"type": "text", "text": "yes"}],
        choices=choice("stop", content="yes"),
    )
    server.script = lambda number, seen: fault(seen)
    prices = {"usd_per_million_input": 2.0, "usd_per_million_output": 10.0}
    ask(llm(**prices, usd_per_million_cached_input=price), requests(1), tmp_path / "l")
    with Ledger(tmp_path / "l") as ledger:
        totals = ledger.totals()
        assert totals.cost_usd == pytest.approx(usd / 1e6) and totals.input_tokens == 1000
        assert [o.usage.cached_tokens for o in ledger.outcomes.values()] == [600]


@pytest.mark.parametrize("attempts", [6, 1])
def test_all_wait_as_long_as_the_server_asked(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path, attempts: int
) -> None:
    """Also where the request that was told so is given up."""
    arrived: list[float] = []

    def script(number: int, seen: Seen) -> Fault | None:
        arrived.append(time.monotonic())
        return rate_limited(1) if number == 0 else None

    server.script = script
    ask(llm(limits={"concurrency": 1, "attempts": attempts}), requests(4), tmp_path / "l")
    assert arrived[1] - arrived[0] >= 1.0
    assert arrived[-1] - arrived[1] < 0.9  # one wait for all, not one each


def test_requests_a_minute_hold(server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    started = time.monotonic()
    ask(llm(limits={"requests_per_minute": 600}), requests(11), tmp_path / "l")
    assert time.monotonic() - started >= 0.99


@pytest.mark.parametrize("stated", [None, 60_000])
def test_requests_a_minute_are_learnt_from_headers_where_they_are_not_stated(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path, stated: int | None
) -> None:
    declared = llm(limits={"concurrency": 1, "requests_per_minute": stated})
    header = {"openai": "x-ratelimit-limit-requests", "anthropic": "anthropic-ratelimit-requests-limit"}
    server.headers = {header[declared.provider]: "120"}
    started = time.monotonic()
    ask(declared, requests(3), tmp_path / "l")
    assert stated or time.monotonic() - started >= 0.45


def test_one_bad_request_is_left_out(server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    def script(number: int, seen: Seen) -> Fault | None:
        return error(400, "too long", type="invalid_request_error") if seen.text == "question 3" else None

    server.script = script
    outcomes = ask(llm(), requests(6), tmp_path / "l")
    failure = outcomes["r3"]
    assert isinstance(failure, Failure) and failure.kind == "bad_request" and "too long" in failure.message
    assert sum(isinstance(o, Reply) for o in outcomes.values()) == 5 and len(server.seen) == 6
    # The next run asks nothing else, and it fails again: no sign that the provider is at fault.
    assert ask(llm(), requests(6), tmp_path / "l") == outcomes and len(server.seen) == 7


# ---------------------------------------------------------------- the end of a run


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (error(401, f"bad key {KEY}"), "TEST_KEY was refused"),
        (error(403, "country not supported"), "may not do this"),
        (error(404, "no model judge"), "no such model or address: 'judge'"),
        (error(429, "You exceeded your quota", code="insufficient_quota"), "out of money or quota"),
        (error(400, "Your credit balance is too low"), "out of money"),
        (
            error(400, "Unsupported value: `temperature`", param="temperature"),
            "does not take this temperature",
        ),
    ],
)
def test_fatal_answers_stop_the_run_and_lose_nothing(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path, fault: Fault, words: str
) -> None:
    server.script = lambda number, seen: fault if number >= 20 else None
    with pytest.raises(JobError, match=words) as caught:
        ask(llm(), requests(100), tmp_path / "l")
    assert KEY not in str(caught.value)
    assert len(server.seen) <= 20 + 8
    assert len(settled(tmp_path / "l")) == 20
    server.script = None
    assert len(ask(llm(), requests(100), tmp_path / "l")) == 100
    assert set(settled(tmp_path / "l").values()) == {1}


def test_run_gives_up_where_nothing_succeeds(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    server.script = lambda number, seen: error(500, "broken")
    with pytest.raises(JobError, match="requests in a row failed; the last one: server: HTTP 500"):
        ask(llm(limits={"attempts": 1}), requests(500), tmp_path / "l")
    assert len(server.seen) < 40


def test_run_gives_up_where_all_of_few_fail(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    server.script = lambda number, seen: error(400, "max_tokens is too large")
    with pytest.raises(JobError, match="every request failed"):
        ask(llm(), requests(3), tmp_path / "l")


def test_nobody_listens(llm: Callable[..., LLM], tmp_path: Path) -> None:
    declared = llm(base_url="http://127.0.0.1:9", limits={"attempts": 2})
    with pytest.raises(JobError, match="every request failed; the last one: connection"):
        ask(declared, requests(3), tmp_path / "l")


def test_missing_key_is_told_before_anything_is_asked(
    llm: Callable[..., LLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(JobError, match="TEST_KEY is not set"):
        ask(llm(base_url=None), requests(1), tmp_path / "l")


def test_own_server_needs_no_key(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY")
    assert len(ask(llm(), requests(2), tmp_path / "l")) == 2


def test_broken_key_is_refused(
    llm: Callable[..., LLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-\u2026")
    with pytest.raises(JobError, match="characters that no key has"):
        ask(llm(), requests(1), tmp_path / "l")


def test_token_limit_goes_by_the_name_that_the_server_knows(server: JudgeServer, tmp_path: Path) -> None:
    def script(number: int, seen: Seen) -> Fault | None:
        message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return error(400, message, param="max_tokens") if "max_tokens" in seen.body else None

    server.script = script
    value = {"provider": "openai", "model": "judge", "base_url": server.openai, "limits": {"concurrency": 4}}
    outcomes = ask(TypeAdapter[LLM](LLM).validate_python(value), requests(20), tmp_path / "l")
    assert all(isinstance(o, Reply) for o in outcomes.values())
    assert server.seen[-1].body["max_completion_tokens"] == 20
    assert len(server.seen) <= 24


def test_half_a_character_can_be_stored(server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path) -> None:
    server.answer = lambda seen: "x \ud83d y"
    assert texts(ask(llm(), requests(1), tmp_path / "l")) == {"r0": "x ? y"}


def test_long_replies_with_line_separators(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    server.answer = lambda seen: "a\u2028b\x85c\r" * 300_000
    once = ask(llm(), requests(2), tmp_path / "l")
    assert ask(llm(), requests(2), tmp_path / "l") == once and len(server.seen) == 2
    assert texts(once)["r1"] == "a\u2028b\x85c\r" * 300_000


def test_a_full_disk_stops_the_run_and_costs_what_was_in_flight(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    path, (soft, hard) = tmp_path / "l", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(JobError, match=r"(?s)an answer cannot be stored: .*Make room and run again"):
            ask(llm(limits={"concurrency": 2}), requests(30), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept, asked = len(settled(path)), len(server.seen)
    assert path.read_text().endswith("}\n") and 2 < kept < asked <= kept + 2
    assert len(ask(llm(), requests(30), path)) == 30 and len(server.seen) == asked + 30 - kept


def test_a_defect_in_one_request_loses_no_other(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    """What is in flight then is paid for: it is waited for, and stored."""
    server.answer = lambda seen: "5" if seen.text == "question 5" else "yes"
    server.script = lambda number, seen: Fault(slow=0.3) if seen.text != "question 5" else None

    def tell(done: int, total: int, text: str) -> None:
        if done == 1:
            raise ZeroDivisionError

    with Ledger(tmp_path / "l") as ledger, pytest.raises(ZeroDivisionError):
        ask_all(llm(), requests(8), ledger, tell)
    assert len(settled(tmp_path / "l")) == 8


# ---------------------------------------------------------------- signals and kills

PROGRAM = """
import signal, sys
from pathlib import Path
from pydantic import TypeAdapter
from runtime.declare import LLM
from runtime.llms.ledger import Ledger
from runtime.llms.client import ask_all
from tests.test_llms_client import requests

class Interrupted(BaseException):
    pass

def interrupt(number, frame):
    raise Interrupted(signal.Signals(number).name)

signal.signal(signal.SIGTERM, interrupt)
llm = TypeAdapter(LLM).validate_python(
    {"provider": sys.argv[1], "model": "judge", "base_url": sys.argv[2], "limits": {"concurrency": 8}})
with Ledger(Path(sys.argv[3])) as ledger:
    try:
        ask_all(llm, requests(200), ledger)
    except Interrupted as error:
        print("interrupted by", error)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_run_asks_again_only_what_is_missing(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path, number: signal.Signals
) -> None:
    server.latency = 0.02
    path = tmp_path / "l"
    declared = llm()
    words = [sys.executable, "-c", PROGRAM, declared.provider, getattr(server, declared.provider), str(path)]
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < 40):
        time.sleep(0.01)
    running.send_signal(number)
    out, _ = running.communicate(timeout=20)
    if number is signal.SIGTERM:
        assert out == "interrupted by SIGTERM\n"
    kept = path.read_bytes().count(b"\n")
    before = len(server.seen)
    assert 40 <= kept < 200 and before - kept <= 8
    outcomes = ask(declared, requests(200), path)
    assert len(outcomes) == 200
    assert len(server.seen) - before == 200 - kept
    assert set(settled(path).values()) == {1}


# ---------------------------------------------------------------- small parts


def test_backoff_grows_and_obeys_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_S", 0.5)
    for attempt in range(1, 12):
        longest = min(client.LONGEST_BACKOFF_S, 0.5 * 2 ** (attempt - 1))
        assert longest / 2 <= backoff_s(attempt, Retryable("server", "")) <= longest
    assert 7 <= backoff_s(1, Retryable("rate_limit", "", 7)) <= 7.2
    assert backoff_s(1, Retryable("rate_limit", "", 1e9)) <= client.LONGEST_RETRY_AFTER_S + 1


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after_s({"retry-after": "2.5"}) == 2.5
    assert retry_after_s({"retry-after-ms": "250"}) == 0.25
    assert retry_after_s({"retry-after": formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(
        30, abs=2
    )
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({"retry-after": "-3"}) == retry_after_s({"retry-after": "nan"}) == 0
    now = formatdate(time.time(), usegmt=True)
    past, far = (f"Fri, 31 Dec {year} 23:59:59 GMT" for year in ("1999", "9999"))
    assert retry_after_s({"retry-after": past}) == retry_after_s({"retry-after": past, "date": now}) == 0
    for wait in (far, "1e999"):
        told_s = retry_after_s({"retry-after": wait})
        assert backoff_s(1, Retryable("rate_limit", "", told_s)) <= client.LONGEST_RETRY_AFTER_S + 1
    assert retry_after_s({"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"}) is None
    assert retry_after_s({}) is None


def test_server_words_are_stored_without_the_key() -> None:
    assert told(f"your key {KEY} is bad", KEY) == "your key [key] is bad"
    assert len(told("x" * 10_000, KEY)) <= 500
    found = meaning(401, {}, {}, f"bad {KEY[:9]}...", variable="TEST_KEY", model="m")
    assert KEY[:9] not in str(found)


def test_declared_system_prompt_comes_first() -> None:
    declared = TypeAdapter[LLM](LLM).validate_python({"provider": "openai", "model": "m", "system": "S"})
    asked = Request("a", (Message("user", "x"),))
    assert addressed(declared, asked).messages == (Message("system", "S"), Message("user", "x"))
    plain = TypeAdapter[LLM](LLM).validate_python({"provider": "openai", "model": "m"})
    assert addressed(plain, asked) is asked


def test_a_server_that_bears_few_at_once_gets_few_at_once(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    """Sixteen are allowed, the server bears four: all are answered, and most tries are not refused."""
    server.latency = 0.02
    refused: list[int] = []

    def script(number: int, seen: Seen) -> Fault | None:
        if server._at_once <= 4:
            return None
        refused.append(number)
        return Fault(429, body={"error": {"message": "too many at once"}})

    server.script = script
    outcomes = ask(llm(limits={"concurrency": 16, "attempts": 30}), requests(120), tmp_path / "l")
    assert all(isinstance(outcome, Reply) for outcome in outcomes.values())
    assert settled(tmp_path / "l") == Counter(outcomes.keys())
    assert len(refused) < 60, "without adaption some hundreds"


def test_those_that_wait_their_turn_keep_the_servers_pause_too(
    server: JudgeServer, llm: Callable[..., LLM], tmp_path: Path
) -> None:
    arrived: list[float] = []

    def script(number: int, seen: Seen) -> Fault | None:
        arrived.append(time.monotonic())
        return rate_limited(1) if number == 0 else None

    server.script = script
    ask(llm(limits={"requests_per_minute": 300}), requests(4), tmp_path / "l")
    assert min(arrived[1:]) - arrived[0] >= 0.95


# ---------------------------------------------------------------- what an error means

# Status -> what is done. Of every status for which either SDK has an error class, and some more.
STATUSES: dict[int, type[Exception]] = {
    308: Fatal, 400: Skipped, 401: Fatal, 402: Fatal, 403: Fatal, 404: Fatal, 405: Fatal, 408: Retryable,
    409: Retryable, 410: Fatal, 412: Skipped, 413: Skipped, 422: Skipped, 425: Retryable, 429: Retryable,
    431: Skipped, 499: Retryable, 500: Retryable, 501: Fatal, 502: Retryable, 503: Retryable,
    504: Retryable, 520: Retryable, 529: Retryable,
}  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
def test_statuses(status: int) -> None:
    assert type(meaning(status, {}, {}, "no", variable="K", model="m")) is STATUSES[status]


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_no_error_class_of_an_sdk_is_without_a_meaning(sdk: str) -> None:
    waiting, known = [importlib.import_module(sdk).APIStatusError], set[int]()
    while waiting:
        waiting += (found := waiting.pop()).__subclasses__()
        known |= {n for n in [getattr(found, "status_code", None)] if isinstance(n, int)}
    assert {400, 401, 403, 404, 429} <= known <= STATUSES.keys()


# Status, words and fields of an error as vendors and servers put them -> what is done, by its kind or words.
WORDS: list[tuple[int, str, dict[str, str], type[Exception], str]] = [
    (429, "You exceeded your current quota", {"code": "insufficient_quota"}, Fatal, "out of money"),
    (429, "You exceeded your current quota, check billing", {}, Retryable, "rate_limit"),
    (400, "hard limit", {"code": "billing_hard_limit_reached"}, Fatal, "out of money"),
    (400, "You have reached your specified API usage limits.", {}, Fatal, "out of money"),
    (403, "no", {"type": "billing_error"}, Fatal, "out of money"),
    (402, "Insufficient Balance", {}, Fatal, "out of money"),
    (429, "Request too large for m on tokens per min", {"code": "rate_limit_exceeded"}, Skipped, "too_long"),
    (400, "no", {"code": "context_length_exceeded"}, Skipped, "too_long"),
    (400, "This model's maximum context length is 2048 tokens", {"param": "max_tokens"}, Skipped, "too_long"),
    (400, "prompt is too long: 210000 tokens > 200000 maximum", {}, Skipped, "too_long"),
    (400, "input length and `max_tokens` exceed context limit", {}, Skipped, "too_long"),
    (400, "max_tokens: 99999 > 8192, which is the maximum allowed", {}, Fatal, "Lower `max_tokens`"),
    (400, "max_tokens is too large: 9", {"param": "max_tokens"}, Fatal, "Lower `max_tokens`"),
    (400, "temperature: range: 0..1", {}, Fatal, "does not take this temperature"),
    (400, "flagged", {"code": "invalid_prompt"}, Skipped, "content_filter"),
    (400, "Output blocked by content filtering policy", {}, Skipped, "content_filter"),
    (400, "triggered Azure OpenAI's content management policy", {}, Skipped, "content_filter"),
    (400, "temperatures: are they too high?", {}, Skipped, "bad_request"),
]


@pytest.mark.parametrize(("status", "words", "fields", "expected", "told"), WORDS)
def test_words(status: int, words: str, fields: dict[str, str], expected: type[Exception], told: str) -> None:
    body = {"error": {"message": words, **fields}}
    found = meaning(status, {}, body, words, variable="K", model="m")
    assert type(found) is expected and told in f"{found} {getattr(found, 'kind', '')}"


def test_servers_say_whether_to_try_again() -> None:
    def kind(status: int, header: str) -> tuple[type[Exception], str]:
        found = meaning(status, {"x-should-retry": header}, {}, "no", variable="K", model="m")
        return type(found), getattr(found, "kind", "")

    assert kind(429, "false") == (Skipped, "rate_limit")
    assert kind(503, "false") == (Skipped, "server")
    assert kind(418, "true") == (Retryable, "server")


def test_an_address_without_a_scheme_stops_the_run(llm: Callable[..., LLM], tmp_path: Path) -> None:
    with pytest.raises(JobError, match="nobody can be reached at this address"):
        ask(llm(base_url="127.0.0.1:9"), requests(1), tmp_path / "l")
