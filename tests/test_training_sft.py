"""The `sft` stage end to end, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.chat import Renderer
from runtime.files import read_json, write_json
from runtime.run_job import Outcome, run_job
from runtime.store import Store
from tests.support import declared, describe, made, run
from tests.tiny import curve, demonstrations, failure, given, model, sft, summary


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_checkpoints_are_whole_models(store: Store) -> None:
    job = sft(store, epochs=3)
    folder = run(store, job)
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest.json",
        "model",
        "training.jsonl",
    ]
    told = read_json(folder / "model" / "alignc.json")
    lm, tokenizer = load(folder / "model")
    assert told["chat"] == "human_assistant" and told["epoch"] == 3
    assert told["golden"] == Renderer("human_assistant", tokenizer).golden()
    assert lm.dtype == torch.float32 and lm.config.vocab_size == len(tokenizer) == 100
    figures = summary(store, job)
    assert figures["steps"] == 18 and figures["reopened_difference"] == 0.0
    assert figures["useful_tokens_per_s"] > figures["supervised_tokens_per_s"] > 0
    assert (
        figures["model_flops"] > 0
        and figures["mfu"] is None
        and set(figures["seconds"]) == {"data", "compute", "save"}
    )


def test_the_curve_tells_each_step_and_the_loss_falls(store: Store) -> None:
    rows = curve(run(store, sft(store, epochs=4)))
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert [row["epoch"] for row in rows] == sorted([1, 2, 3, 4] * 6)
    assert set(rows[0]) == {"step", "epoch", "loss", "lr", "grad_norm", "tokens", "supervised"}
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5


def test_the_model_learns_to_stop(store: Store) -> None:
    """The probability of EOS behind a whole answer rises: it is supervised."""

    def chance_of_eos(folder: Path) -> float:
        lm, tokenizer = load(folder)
        row = demonstrations(1)[0]
        renderer = Renderer("human_assistant", tokenizer)
        ids = renderer.prompts([row["prompt"]])[0] + renderer.completions([row["completion"]])[0][:-1]
        with torch.no_grad():
            return float(lm(torch.tensor([ids])).logits[0, -1].softmax(-1)[renderer.eos])

    first, last = (chance_of_eos(run(store, sft(store, epochs=n)) / "model") for n in (1, 4))
    assert last > max(first, 0.05)


def test_truncation_is_reported(store: Store) -> None:
    rows = [*demonstrations(20), {"id": "long", "prompt": "reverse " + "a" * 40, "completion": "b" * 40}]
    job = sft(store, rows, epochs=1, max_length=64, max_prompt_length=32)
    run(store, job)
    assert summary(store, job)["truncation"] == {
        "rows": 21,
        "kept": 20,
        "dropped": 1,
        "cut": 0,
        "prompts_cut": 0,
        "completions_cut": 0,
    }


def test_a_loss_that_is_not_finite_stops_the_run_with_the_rows(store: Store) -> None:
    job = sft(store, demonstrations(8), learning_rate=1e30, batch_size=4)
    assert run_job(store, job) is Outcome.REFUSED
    message = failure(store, job)["message"]
    assert "step 2: the loss is" in message and "the batch has the rows r" in message


def test_a_row_longer_than_the_model_is_refused(store: Store) -> None:
    row = {"id": "long", "prompt": "a" * 60, "completion": "b" * 60}
    job = sft(store, [*demonstrations(3), row], max_length=512, max_prompt_length=256)
    assert run_job(store, job) is Outcome.REFUSED
    assert "the row long has" in failure(store, job)["message"]
    assert "set `max_length` to 96 at most" in failure(store, job)["message"]


def test_training_goes_on_from_a_trained_model_in_its_format(store: Store) -> None:
    first = sft(store, epochs=1, chat="plain")
    run(store, first)
    data = given(store, "Demonstrations", demonstrations(32))
    config = {"epochs": 1, "learning_rate": 1e-3, "max_length": 96, "max_prompt_length": 64}
    second = describe("sft", config, {"model": made(first, "Model", "model"), "data": data})
    folder = run(store, second)
    assert read_json(folder / "model" / "alignc.json")["chat"] == "plain"
    assert curve(folder)[0]["loss"] < curve(store.artifact("sft", first["key"]))[0]["loss"]


def test_a_changed_tokenizer_is_noticed(store: Store) -> None:
    first = sft(store, epochs=1)
    folder = run(store, first) / "model"
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {
        "a": tokenizer["model"]["vocab"]["b"],
        "b": tokenizer["model"]["vocab"]["a"],
    }
    copy = {"path": str(folder)}
    write_json(folder / "tokenizer.json", tokenizer)
    data = given(store, "Demonstrations", demonstrations(32))
    config = {"epochs": 1, "learning_rate": 1e-3, "max_length": 96, "max_prompt_length": 64}
    job = describe("sft", config, {"model": declared("models", copy, "Model"), "data": data})
    assert run_job(store, job) is Outcome.REFUSED
    assert "renders otherwise than when" in failure(store, job)["message"]


def test_equal_recipes_give_equal_weights_and_seeds_differ(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    folders = [
        run(store, sft(store)),
        run(other, sft(other)),
        run(store, sft(store, demonstrations(90), seed=1)),
    ]
    weights = [(f / "model" / "model.safetensors").read_bytes() for f in folders]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_bf16_follows_fp32(store: Store, optimizer: str, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    told = {"optimizer": optimizer, "learning_rate": 1e-3, "reduction": "example_mean"}
    exact = curve(run(store, sft(store, **told)))
    rough = curve(run(other, sft(other, **told, precision="bf16")))
    assert rough[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.02)
    assert rough != exact


def test_a_model_without_a_format_is_refused(store: Store) -> None:
    data = given(store, "Demonstrations", demonstrations(8))
    job = describe("sft", {"epochs": 1, "learning_rate": 1e-3}, {"model": model(), "data": data})
    assert run_job(store, job) is Outcome.REFUSED
    assert "no chat format" in failure(store, job)["message"]
