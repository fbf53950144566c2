"""Reward models: the loss, the layout of batches, the stage, and what is done with what it makes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.autograd import gradcheck
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from runtime.chat import Renderer
from runtime.declare import Architecture
from runtime.files import read_json, read_rows, write_json
from runtime.job import JobError, open_job
from runtime.models import _initialise
from runtime.reward_models import load_reward_model, set_filler, start_reward_model
from runtime.run_job import Outcome, run_job
from runtime.stages.reward import Reward
from runtime.store import Store
from runtime.training import isolation, state
from runtime.training.isolation import require_isolation
from runtime.training.losses import reward_loss
from runtime.training.preflight import look
from runtime.training.reward import Ranking
from runtime.training.scoring import Rewarder
from tests.support import declared, describe, made, run, scratch
from tests.test_training_batches import SMALL, backend_of
from tests.test_training_gradients import examples, require_same, score
from tests.test_training_parallel import eventually, parallel, require_close
from tests.test_training_resume import die_at
from tests.tiny import MODEL, curve, demonstrations, digest, failure, given, in_child, outcome, preferences
from tests.tiny import summary as summary_of

START = {**MODEL, "chat": "human_assistant"}


def config(**told: Any) -> Reward:
    return Reward.model_validate(
        {"kind": "reward", "model": "m", "data": "d", "epochs": 1, "learning_rate": 1.0, **told}
    )


def reward(store: Store, rows: Any = None, start: dict[str, Any] | None = None, **told: Any) -> Any:
    """A description of a short `reward` job."""
    usual = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "max_length": 96, "max_prompt_length": 64}
    model = start or declared("models", START, "Model")
    inputs = {"model": model, "data": given(store, "Preferences", rows or preferences())}
    return describe("reward", {**usual, **told}, inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    _initialise(Architecture.model_validate(MODEL["init"]), ["abc"], made)
    return made


@pytest.fixture(scope="module")
def rewarder(folder: Path) -> Rewarder:
    return Rewarder(start_reward_model(folder, torch.float64, seed=0)).eval()


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Any]:
    renderer = Renderer("human_assistant", AutoTokenizer.from_pretrained(folder))
    return examples(renderer, folder / "rows", preferences(13), "chosen", "rejected")


# ---------------------------------------------------------------- loss and batches


def test_values_and_gradients_of_the_loss() -> None:
    rewards = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    assert reward_loss(rewards).tolist() == pytest.approx([0.126928011, 0.693147181])
    assert reward_loss(rewards, 0.5).tolist() == pytest.approx([2.126928011, 0.693147181])
    assert gradcheck(lambda r: reward_loss(r, 0.1), (rewards,))


@pytest.mark.parametrize("told", [{}, {"centering": 0.1}])
def test_no_split_changes_loss_or_gradient(rewarder: Rewarder, rows: list[Any], told: Any) -> None:
    require_same(rewarder, Ranking(rows, config(**told)))


@pytest.mark.parametrize("padding", [False, True])
def test_a_reward_is_that_of_the_classifier_at_the_last_token(
    rewarder: Rewarder, rows: list[Any], padding: bool
) -> None:
    objective = Ranking(rows, config(padding=padding))
    part = objective.part(range(len(rows)), objective.weights(range(len(rows))))
    with torch.no_grad():
        found = score(rewarder, part.batch)
        for number, reward in enumerate(found):
            side, item = divmod(number, len(rows))
            ids = torch.from_numpy(rows[item].sequences[side].ids.astype("int64"))
            assert reward.item() == pytest.approx(rewarder.lm(input_ids=ids[None]).logits.item(), rel=1e-6)


def classifier(kind: str, **told: Any) -> Any:
    torch.manual_seed(0)
    shape = {**SMALL, "num_labels": 1, "initializer_range": 0.25, **told}
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **shape))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 64, "num_key_value_heads": 2}),
        ("qwen3", {"head_dim": 4, "num_key_value_heads": 2}),
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}),
        ("gpt_neox", {}),
    ],
)
def test_families_that_keep_sequences_apart(
    kind: str, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(classifier(kind, **told))
    require_isolation(backend)
    monkeypatch.setattr(isolation, "TOLERANCE", {"fp32": 0.0})  # the proof looks at numbers of some size
    monkeypatch.setattr(type(backend.scorer), "alone", lambda self, probe, sequence: probe[0])
    with pytest.raises(JobError, match="numbers differ"):
        require_isolation(backend)


@pytest.mark.parametrize(("kind", "told"), [("bloom", {"n_layer": 2, "n_head": 4})])
def test_families_that_cannot_are_refused(kind: str, told: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="padding: true"):
        require_isolation(backend_of(classifier(kind, **told)))


# ---------------------------------------------------------------- the stage


def test_what_it_learns_and_leaves(store: Store) -> None:
    job = reward(store, epochs=4)
    folder = run(store, job)
    told = curve(folder)
    assert told[-1]["loss"] < 0.1 < told[0]["loss"] and told[-1]["accuracy"] == 1.0
    assert told[-1]["margin"] == pytest.approx(told[-1]["reward_chosen"] - told[-1]["reward_rejected"])
    assert summary_of(store, job)["reopened_difference"] <= 1e-5
    assert summary_of(store, job)["truncation"]["kept"] == 40

    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    texts = [
        f"\n\nHuman: {row['prompt']}\n\nAssistant: {row[side]}{tokenizer.eos_token}"
        for row in preferences(5)
        for side in ("chosen", "rejected")
    ]
    with torch.no_grad():
        found = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.view(-1, 2)
    assert (found[:, 0] > found[:, 1]).all()


def test_a_look_beforehand_shows_the_one_token_that_counts(store: Store, tmp_path: Path) -> None:
    found = look(open_job(store, {**reward(store), "scratch": str(tmp_path / "scratch")}), samples=1)
    (sample,) = found.samples
    assert [(text.supervised, text.supervised_tokens) for text in sample.texts] == [("<eos>", 1)] * 2
    assert found.memory is not None and found.memory.logits == 0 < found.memory.activations
    assert found.batches is not None and found.batches.prompts_saved > 0.2


def test_centering_draws_rewards_to_zero(store: Store) -> None:
    ends = [curve(run(store, reward(store, epochs=4, centering=c)))[-1] for c in (0.0, 1.0)]
    off = [abs(end["reward_chosen"] + end["reward_rejected"]) for end in ends]
    assert off[1] < 0.5 * off[0] and ends[1]["accuracy"] == 1.0


def with_tokenizer(store: Store, **tokens: str | None) -> dict[str, Any]:
    """The tiny model in a folder of its own, its special tokens set otherwise."""
    place = store.root.parent / "start"
    _initialise(Architecture.model_validate(MODEL["init"]), ["abcdefghz"], place)
    told = json.loads((place / "tokenizer_config.json").read_text())
    write_json(place / "tokenizer_config.json", {**told, **tokens})
    return declared("models", {"path": str(place), "chat": "human_assistant"}, "Model")


def test_where_eos_is_the_filler_another_token_is_taken(store: Store) -> None:
    """Else transformers would read the reward one token before an answer's end."""
    start = with_tokenizer(store, pad_token="<eos>")
    folder = run(store, reward(store, start=start)) / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_reward_model(folder, torch.float32).eval()
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<unk>", "<eos>")
    assert model.config.pad_token_id == tokenizer.pad_token_id
    ids = torch.tensor([[5, 6, 7, tokenizer.eos_token_id]])
    with torch.no_grad():
        right = model(input_ids=ids).logits
        model.config.pad_token_id = tokenizer.eos_token_id
        wrong, early = model(input_ids=ids).logits, model(input_ids=ids[:, :3]).logits
    assert torch.allclose(wrong, early, atol=1e-6) and not torch.allclose(wrong, right, atol=1e-3)


def test_a_tokenizer_that_knows_eos_alone_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="<eos>")
    with pytest.raises(JobError, match="no special token but EOS"):
        set_filler(None, bare)


def test_killed_it_ends_with_the_same_bits(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    wanted = digest(run(other, reward(other)))
    job = reward(store)
    assert outcome(in_child(store, job, lambda: die_at(60))) == -signal.SIGKILL
    assert state.newest(scratch(store, job)) is not None
    assert digest(run(store, job)) == wanted


@pytest.mark.slow
def test_ddp_trains_as_one_process_does_and_goes_on_with_the_same_bits(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Store(tmp_path / name) for name in ("one", "other"))
    told: dict[str, Any] = {"batch_size": 13, "learning_rate": 1e-4}  # 40 pairs: a rank has none at last
    alone = run(one, reward(one, **told))
    whole = run(other, reward(other, **told, **parallel()))
    require_close(alone, whole)
    job = reward(store, **told, **parallel())
    monkeypatch.setenv("ALIGNC_RESUME_EVERY_S", "0")
    pid = in_child(store, job)
    eventually(lambda: state.newest(scratch(store, job)))
    os.kill(pid, signal.SIGTERM)
    assert outcome(pid) == Outcome.INTERRUPTED
    assert digest(run(store, job)) == digest(whole)


def test_adapters_stand_beside_a_head_that_is_trained_whole(store: Store) -> None:
    from peft import PeftModel

    job = reward(store, lora={"rank": 4}, epochs=3)
    folder = run(store, job)
    assert curve(folder)[-1]["accuracy"] == 1.0
    ours = load_reward_model(folder / "model", torch.float32).eval()
    base = scratch(store, job) / "start"
    theirs = PeftModel.from_pretrained(start_reward_model(base, torch.float32, seed=7), folder / "adapter")
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits, atol=1e-5)


def test_dropout_of_adapters_is_refused() -> None:
    with pytest.raises(ValidationError, match="trains without dropout"):
        config(lora={"dropout": 0.1})


# ---------------------------------------------------------------- scoring and ranking

PLACE = {"max_length": 96, "max_prompt_length": 64}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    store = Store(tmp_path_factory.mktemp("trained") / "store")
    job = reward(store, epochs=4)
    run(store, job)
    return store, made(job, "RewardModel", "model")


def completions(prefix: str = "", count: int = 12) -> list[dict[str, Any]]:
    return [{**row, "completion": prefix + row["completion"]} for row in demonstrations(count)]


def scored(trained: tuple[Store, dict[str, Any]], type_: str, data: Any, **told: Any) -> Path:
    store, model = trained
    inputs = {"model": model, "data": given(store, type_, data)}
    return run(store, describe("score", {**PLACE, **told}, inputs))


def test_preferences_are_scored_by_agreement(trained: tuple[Store, dict[str, Any]]) -> None:
    turned = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in preferences(4)]
    mixed = [*turned, *preferences(16)[4:]]
    folder = scored(trained, "Preferences", mixed)
    found, items = read_json(folder / "metrics.json"), list(read_rows(folder / "items.jsonl"))
    assert found["accuracy"] == 75.0 and found["accuracy_se"] == pytest.approx(11.18, abs=0.01)
    assert [item["correct"] for item in items] == [0] * 4 + [1] * 12
    assert found["margin"] == pytest.approx(sum(item["margin"] for item in items) / 16)


def test_completions_are_scored_whatever_their_batch(trained: tuple[Store, dict[str, Any]]) -> None:
    folders = [scored(trained, "Completions", completions(prefix)) for prefix in ("", "z")]
    right, wrong = (read_json(folder / "metrics.json") for folder in folders)
    assert right["reward"] > wrong["reward"] + 1
    assert wrong["avg_length"] - right["avg_length"] in (0, 1)
    singly = scored(trained, "Completions", completions(), batch_size=1)
    for one, other in zip(
        read_rows(folders[0] / "items.jsonl"), read_rows(singly / "items.jsonl"), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_best_and_the_worst_of_each_prompt_make_a_pair(trained: tuple[Store, dict[str, Any]]) -> None:
    store, model = trained
    given_ = [
        {**given(store, "Completions", rows), "axes": {"seed": seed}}
        for seed, rows in enumerate([completions("z")[1:], completions()[1:], completions("z")])
    ]
    job = describe("rank", PLACE, {"candidates": given_, "model": model})
    folder = run(store, job)
    wanted = [{k: r[k] for k in ("id", "prompt", "chosen", "rejected")} for r in preferences(12)[1:]]
    assert list(read_rows(folder / "data.jsonl")) == wanted
    best = {row["id"]: row["completion"] for row in read_rows(folder / "best.jsonl")}
    assert best == {row["id"]: row["completion"] for row in [*completions()[1:], completions("z")[0]]}
    told = summary_of(store, job)
    assert (told["prompts"], told["pairs"], told["completions"]) == (12, 11, 34)
    assert told["reward_of_best"] > told["reward"]

    pair = describe("rank", PLACE, {"a": given_[0], "b": given_[1], "model": model})
    assert list(read_rows(run(store, pair) / "data.jsonl")) == wanted

    alike = describe("rank", PLACE, {"candidates": given_[:1], "model": model})
    assert run_job(store, alike) is Outcome.REFUSED
    assert "prefer no completion of any of 11 prompts" in failure(store, alike)["message"]
