"""Sampling engines: whatever a server does, each prompt has one completion in the end, or is named."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.fields import identity
from runtime.files import read_rows
from runtime.run_job import Outcome, run_job
from runtime.sampling.engine import prompt_seed
from runtime.sampling.server import Server
from runtime.stages.sample import Sampling
from runtime.store import Store
from runtime.training import sampling
from tests.support import describe, made, run
from tests.tiny import demonstrations, failure, given, in_child, outcome, sft, summary

ELSEWHERE = Path(__file__).parent / "elsewhere"
COUNT = 24

Trained = tuple[Store, dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    store = Store(tmp_path_factory.mktemp("engines") / "store")
    job = sft(store, epochs=4)
    run(store, job)
    return store, made(job, "Model", "model")


def job(trained: Trained, **config: Any) -> dict[str, Any]:
    store, model = trained
    rows = [{"id": row["id"], "prompt": row["prompt"]} for row in demonstrations(COUNT)]
    inputs = {"model": model, "prompts": given(store, "Prompts", rows)}
    return describe("sample", {"max_new_tokens": 8, "batch_size": 3, "seed": 7, **config}, inputs)


def drawn(trained: Trained, description: dict[str, Any]) -> list[dict[str, Any]]:
    rows = list(read_rows(run(trained[0], description) / "data.jsonl"))
    assert [row["id"] for row in rows] == [row["id"] for row in demonstrations(COUNT)]
    return rows


def environment(folder: Path, faults: dict[str, str]) -> str:
    """The Python of an environment that has a vllm; its notes are kept in the folder."""
    folder.mkdir()
    (folder / "faults.json").write_text(json.dumps(faults))
    python = folder / "python"
    told = f"NOTES={shlex.quote(str(folder))} PYTHONPATH={shlex.quote(str(ELSEWHERE))}"
    python.write_text(f'#!/bin/sh\n{told} exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return str(python)


def asked(folder: Path) -> list[dict[str, Any]]:
    path = folder / "asked.jsonl"
    return list(read_rows(path)) if path.exists() else []


def gone(pid: int) -> bool:
    """Whether a process ends within a minute."""
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.1)
    return False


FAULTS = {"2": "500", "5": "lost", "7": "cut", "9": "doubled", "16": "die"}


@pytest.mark.slow
def test_a_server_with_faults_gives_what_one_without_gives(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = environment(tmp_path / "faulty", FAULTS)
    faulty = job(trained, engine="vllm", vllm={"python": python})
    rows = drawn(trained, faulty)

    notes = asked(tmp_path / "faulty")
    prompts = Counter(json.dumps(note["prompt"]) for note in notes)
    assert len(prompts) == COUNT and sum(prompts.values()) <= COUNT + 4 + 3  # four faults, three in flight
    seeds = {json.dumps(note["prompt"]): note["seed"] for note in notes}
    assert sorted(seeds.values()) == sorted(prompt_seed(7, row["id"]) for row in rows)
    first, second = dict.fromkeys(note["pid"] for note in notes)
    assert gone(first) and gone(second)

    told = summary(trained[0], faulty)
    assert told["fidelity"]["prompts"] >= 4 and told["fidelity"]["largest"] < 1e-3

    # The same from a server that runs already.
    folder = Path(trained[0].artifact("sft", trained[1]["key"])) / "model"
    words = ("--model", str(folder), "--served-model-name", "other", "--generation-config", "vllm")
    server = Server(environment(tmp_path / "fine", {}), (*words, "--dtype", "float32"), tmp_path)
    try:
        while "ready" not in server.words():
            server.require_running(time.monotonic() + 60)
            time.sleep(0.1)
        monkeypatch.setenv("OUR_KEY", server.key)
        asks = {"base_url": server.url, "api_key_env": "OUR_KEY"}
        assert drawn(trained, job(trained, engine="vllm", vllm=asks)) == rows
        monkeypatch.setenv("OUR_KEY", "another")
        wrong = job(trained, engine="vllm", vllm=asks, seed=8)
        assert run_job(trained[0], wrong) is Outcome.REFUSED
        assert "HTTP 401" in failure(trained[0], wrong)["message"]
    finally:
        server.close()
    assert server.key not in server.log.read_text()


@pytest.mark.slow
def test_a_killed_job_takes_its_server_along_and_goes_on(trained: Trained, tmp_path: Path) -> None:
    store, folder = trained[0], tmp_path / "slow"
    python = environment(folder, {"12": "hang", "13": "hang", "14": "hang"})
    sampled = job(trained, engine="vllm", vllm={"python": python}, temperature=0.7)
    child = in_child(store, sampled)
    while len(asked(folder)) < 14:
        time.sleep(0.1)
    path = store.work(sampled["key"]) / "scratch" / sampling.DONE
    while len(path.read_bytes().splitlines()) < 11:
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    assert outcome(child) == -signal.SIGKILL
    assert gone(asked(folder)[0]["pid"])
    drawn(trained, sampled)
    assert len(asked(folder)) == 14 + COUNT - 11


@contextmanager
def server(status: int, body: dict[str, Any]) -> Iterator[str]:
    """The address of a server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, {"data": [{"id": "small"}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(status, body)

        def answer(self, status: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/v1"
    finally:
        made.shutdown()
        made.server_close()


def choice(**told: Any) -> dict[str, Any]:
    return {"choices": [{"token_ids": [5] * 8, "finish_reason": "length", **told}]}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (503, {"error": "busy"}, "24 of 24 prompts have no completion after 3 attempts:\n  r0: HTTP 503"),
        (400, {"error": "too long"}, 'the vLLM server refuses to complete: HTTP 400: {"error": "too long"}'),
        (200, {"choices": []}, "r0: one completion was asked for, not none"),
        (200, {"choices": [{"text": "abc", "finish_reason": "stop"}]}, "it gives no `token_ids`"),
        (200, choice(token_ids=[5, 5]), "r0: it was cut: 2 tokens, ended by 'length'"),
        (200, choice(token_ids=[10**6] * 8), "r0: it holds ids that are no tokens"),
        (200, choice(prompt_token_ids=[1]), "r0: it answers another prompt"),
        (200, choice(logprobs={"token_logprobs": [-90.0] * 8}), "it has another model"),
    ],
)
def test_useless_replies(trained: Trained, status: int, body: dict[str, Any], message: str) -> None:
    store = trained[0]
    with server(status, body) as url:
        sampled = {**job(trained, engine="vllm", vllm={"base_url": url}), "key": f"useless-{message[:20]}"}
        sampled["key"] = "".join(c for c in sampled["key"] if c.isalnum())
        assert run_job(store, sampled) is Outcome.REFUSED
    assert message in failure(store, sampled)["message"]


def test_ids_beside_log_probabilities(trained: Trained) -> None:
    named = {"tokens": ["token_id:5"] * 8, "token_logprobs": [None] * 8}
    with server(200, choice(token_ids=None, logprobs=named)) as url:
        rows = drawn(trained, job(trained, engine="vllm", vllm={"base_url": url}))
    assert len({row["completion"] for row in rows}) == 1


def test_a_server_that_cannot_start(trained: Trained, tmp_path: Path) -> None:
    python = tmp_path / "python"
    for text, message in (
        (None, f"`python` of `vllm`: {python} is not there"),
        (
            "#!/bin/sh\necho no such flag: $1; exit 3\n",
            "no such flag: -m\n  the server ended with exit code 3",
        ),
    ):
        if text:
            python.write_text(text)
            python.chmod(0o755)
        sampled = job(trained, engine="vllm", vllm={"python": str(python)}, seed=99)
        assert run_job(trained[0], sampled) is Outcome.REFUSED
        assert message in failure(trained[0], sampled)["message"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_continuous_batching(trained: Trained, temperature: float) -> None:
    sampled = job(trained, engine="continuous", temperature=temperature)
    rows = drawn(trained, sampled)
    told = summary(trained[0], sampled)
    assert told["fidelity"]["prompts"] == 4 and told["fidelity"]["largest"] < 1e-3
    if temperature == 0:
        assert rows == drawn(trained, job(trained, temperature=0.0))
    else:
        assert len({row["completion"] for row in rows}) > COUNT / 2


def test_the_engine_is_part_of_the_key_unless_it_is_our_own() -> None:
    plain = identity(Sampling())
    assert "engine" not in plain and identity(Sampling(engine="own")) == plain
    here = Sampling.model_validate({"engine": "vllm", "vllm": {"python": "/a/python"}})
    there = Sampling.model_validate({"engine": "vllm", "vllm": {"base_url": "http://b/v1"}})
    assert identity(here) == identity(there) == {**plain, "engine": "vllm"}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"engine": "vllm"}, "`engine: vllm` needs `vllm`"),
        ({"engine": "vllm", "vllm": {}}, "give either `python`"),
        ({"engine": "vllm", "vllm": {"python": "env/bin/python"}}, "must be an absolute path"),
        ({"engine": "vllm", "vllm": {"base_url": "node7:8000"}}, "must begin with http"),
        (
            {"engine": "vllm", "vllm": {"base_url": "http://a", "args": ["-x"]}},
            "`args` are those of a server",
        ),
    ],
)
def test_settings_without_sense(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling.model_validate(told)
