"""Sampling: each completion depends on the model, the seed and its own prompt alone."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st

from runtime.draws import uniforms
from runtime.files import read_rows
from runtime.run_job import Outcome, run_job
from runtime.store import Store
from runtime.training import sampling
from tests.support import describe, made, run
from tests.tiny import demonstrations, failure, given, in_child, outcome, sft, summary


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    store = Store(tmp_path_factory.mktemp("trained") / "store")
    job = sft(store, epochs=12)
    run(store, job)
    return store, made(job, "Model", "model")


def prompts(count: int = 40) -> list[dict[str, Any]]:
    return [{"id": r["id"], "prompt": r["prompt"], "answer": r["completion"]} for r in demonstrations(count)]


def job(trained: tuple[Store, dict[str, Any]], rows: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    store, model = trained
    inputs = {"model": model, "prompts": given(store, "Prompts", rows)}
    return describe("sample", {"max_new_tokens": 12, **config}, inputs)


def drawn(trained: tuple[Store, dict[str, Any]], rows: list[dict[str, Any]], **config: Any) -> list[Any]:
    return list(read_rows(run(trained[0], job(trained, rows, **config)) / "data.jsonl"))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9)])
def test_batches_and_order_change_nothing(
    trained: tuple[Store, dict[str, Any]], temperature: float, top_p: float
) -> None:
    told = {"temperature": temperature, "top_p": top_p}
    whole = drawn(trained, prompts(), **told, batch_size=64)
    assert drawn(trained, prompts(), **told, batch_size=3) == whole
    turned = drawn(trained, prompts()[::-1], **told, batch_size=7)
    assert turned[::-1] == whole


def test_rows(trained: tuple[Store, dict[str, Any]]) -> None:
    rows = drawn(trained, prompts(), temperature=1.0, max_new_tokens=4)
    assert [row["id"] for row in rows] == [row["id"] for row in prompts()]
    assert all(set(row) == {"id", "prompt", "answer", "completion", "finished"} for row in rows)
    assert all(len(row["completion"]) <= 4 for row in rows)
    assert {row["finished"] for row in rows} == {True, False}
    assert all(len(row["completion"]) == 4 for row in rows if not row["finished"])


def test_seeds_differ_and_repeat(trained: tuple[Store, dict[str, Any]]) -> None:
    first, second = (drawn(trained, prompts(), temperature=1.0, seed=seed) for seed in (0, 1))
    assert first != second


def test_long_prompts_keep_their_end_and_are_counted(trained: tuple[Store, dict[str, Any]]) -> None:
    row = {"id": "long", "prompt": "x" * 80}
    sampled = job(trained, [row, *prompts(3)], max_prompt_length=40)
    run(trained[0], sampled)
    assert summary(trained[0], sampled)["prompts_cut"] == 1


def test_positions_and_ids_are_checked(trained: tuple[Store, dict[str, Any]]) -> None:
    store = trained[0]
    long = job(trained, prompts(3), max_new_tokens=90)
    assert run_job(store, long) is Outcome.REFUSED
    assert "lower `max_new_tokens`" in failure(store, long)["message"]
    twice = job(trained, [*prompts(3), *prompts(1)])
    assert run_job(store, twice) is Outcome.REFUSED
    assert "the id 'r0' stands there more than once" in failure(store, twice)["message"]


def test_killed_between_batches_it_goes_on(trained: tuple[Store, dict[str, Any]]) -> None:
    store = trained[0]
    wanted = drawn(trained, prompts(), temperature=1.0, seed=5, batch_size=8)
    again = {**job(trained, prompts(), temperature=1.0, seed=5, batch_size=8), "key": "again"}
    batches: list[int] = []
    complete = sampling.Generator.complete

    def die() -> None:
        def limited(self: Any, group: Any) -> Any:
            batches.append(len(group))
            if len(batches) == 3:
                signal.raise_signal(signal.SIGKILL)
            return complete(self, group)

        sampling.Generator.complete = limited  # type: ignore[method-assign]

    assert outcome(in_child(store, again, die)) == -signal.SIGKILL
    path = store.work("again") / "scratch" / sampling.DONE
    assert len(list(read_rows(path))) == 16
    with path.open("a") as file:
        file.write('{"id": "r3", "comp')  # a line that was torn off
    assert list(read_rows(run(store, again) / "data.jsonl")) == wanted


def test_a_stream_is_a_fixed_function_of_seed_and_id() -> None:
    assert uniforms(0, "r0", 2).tolist() == uniforms(0, "r0", 5)[:2].tolist()
    many = np.concatenate([uniforms(0, f"r{i}", 10) for i in range(2000)])
    assert abs(many.mean() - 0.5) < 0.01 and many.min() >= 0 and many.max() < 1
    assert uniforms(0, "r0", 1)[0] == pytest.approx(PINNED)


PINNED = 0.7812609362765436  # see above: another value would change every sampled completion


def test_choice_follows_the_distribution() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().expand(10_000, 4)
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    counts = torch.bincount(sampling.choose(logits, uniform, 1.0, 1.0), minlength=4)
    assert counts.tolist() == [1000, 2000, 3000, 4000]
    nucleus = torch.bincount(sampling.choose(logits, uniform, 1.0, 0.6), minlength=4)
    assert nucleus.tolist()[:2] == [0, 0] and nucleus[3].item() == pytest.approx(10_000 * 4 / 7, abs=1)


@examples(st.integers(0, 2**32), st.floats(0, 1, exclude_max=True), st.floats(0.01, 1.0), st.floats(0.05, 5))
def test_only_tokens_of_the_nucleus_are_chosen(seed: int, uniform: float, top_p: float, heat: float) -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(seed)) * 3
    chances = (logits.double() / heat).softmax(-1)[0]
    chosen = int(sampling.choose(logits, torch.tensor([uniform]), heat, top_p))
    likelier = chances[chances > chances[chosen]].sum()
    assert chances[chosen] > 0 and likelier < top_p + 1e-9
