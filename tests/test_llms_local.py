"""The local provider: a model in this process, asked like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from runtime.declare import LLM, Architecture
from runtime.job import JobError
from runtime.llms.base import Failure, Message, Outcome, Reply, Request
from runtime.llms.client import ask_all
from runtime.llms.ledger import Ledger


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights, in a Hugging Face folder."""
    from runtime.models import _initialise

    made = tmp_path_factory.mktemp("model")
    shape = Architecture(
        hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=64, vocab_size=128
    )
    _initialise(shape, ["abc def", "question 1 2 3"] * 20, made)
    return made


def ask(folder: Path, requests: list[Request], path: Path, **more: Any) -> dict[str, Outcome]:
    value = {"provider": "local", "model": {"path": str(folder), "chat": "plain"}, **more}
    with Ledger(path) as ledger:
        return ask_all(TypeAdapter[LLM](LLM).validate_python(value), requests, ledger)


def requests(n: int, **more: Any) -> list[Request]:
    return [
        Request(f"r{i}", (Message("user", f"question {i}"),), **({"max_tokens": 8} | more)) for i in range(n)
    ]


def texts(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {id_: o.text if isinstance(o, Reply) else f"!{o.kind}" for id_, o in outcomes.items()}


def test_answers_do_not_depend_on_the_batch(folder: Path, tmp_path: Path) -> None:
    alone = ask(folder, requests(7, temperature=1.0, seed=3), tmp_path / "1", batch_size=1)
    together = ask(folder, requests(7, temperature=1.0, seed=3), tmp_path / "2", batch_size=4)
    assert texts(alone) == texts(together)
    other = ask(folder, requests(7, temperature=1.0, seed=4), tmp_path / "3", batch_size=4)
    assert texts(other) != texts(alone)
    reply = alone["r0"]
    assert isinstance(reply, Reply) and reply.model == folder.name and 0 < reply.usage.output_tokens <= 8


def test_too_long_a_prompt_is_left_out(folder: Path, tmp_path: Path) -> None:
    long = Request("long", (Message("user", "abc " * 200),), max_tokens=8)
    found = ask(folder, [*requests(2), long], tmp_path / "l")
    failure = found["long"]
    assert (
        isinstance(failure, Failure) and failure.kind == "too_long" and "the model has 64" in failure.message
    )
    assert isinstance(found["r0"], Reply) and isinstance(found["r1"], Reply)


def test_system_prompt_is_part_of_what_is_asked(folder: Path, tmp_path: Path) -> None:
    plain = ask(folder, requests(1, temperature=0.0), tmp_path / "1")["r0"]
    systematic = ask(folder, requests(1, temperature=0.0), tmp_path / "2", system="Be brief.")["r0"]
    assert isinstance(plain, Reply) and isinstance(systematic, Reply)
    assert systematic.usage.input_tokens > plain.usage.input_tokens


def test_random_weights_are_refused(tmp_path: Path) -> None:
    value = {"provider": "local", "model": {"init": {}}}
    with Ledger(tmp_path / "l") as ledger, pytest.raises(JobError, match="random weights"):
        ask_all(TypeAdapter[LLM](LLM).validate_python(value), requests(1), ledger)
