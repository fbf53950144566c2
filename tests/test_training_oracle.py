"""Our losses against TRL 1.16's on one batch: where they are equal, and where TRL differs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from runtime.chat import Renderer
from runtime.declare import Architecture
from runtime.files import write_rows
from runtime.models import _initialise, load_model
from runtime.reward_models import start_reward_model
from runtime.stages.dpo import Dpo
from runtime.stages.reward import Reward
from runtime.training.data import Cut, Example, Lengths, Tokens, read_examples
from runtime.training.dpo import Preference
from runtime.training.losses import sequence_sums
from runtime.training.reward import Ranking
from runtime.training.scoring import Rewarder, Scorer
from runtime.training.sft import Imitation
from tests.tiny import MODEL, preferences


class Oracle:
    """One batch of pairs, a policy and another model as its reference, for TRL and for us."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        _initialise(Architecture.model_validate(MODEL["init"]), ["abc"], folder / "model")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        self.policy, self.other = (load_model(folder / "model", torch.float32).eval() for _ in range(2))
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in self.other.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        write_rows(folder / "rows", preferences(6))
        renderer = Renderer("human_assistant", self.tokenizer)
        self.rows = read_examples(
            folder / "rows", renderer, ("chosen", "rejected"), Cut(Lengths(96, 64, "drop"))
        )
        self.folder = folder

    def ours(self, **told: Any) -> float:
        config = {"kind": "dpo", "model": "m", "data": "d", "epochs": 1, "learning_rate": 1.0, **told}
        blank = torch.zeros(len(self.rows), 2)
        every = range(len(self.rows))
        objective = Preference(self.rows, blank, Dpo.model_validate(config))
        batch = objective.part(every, objective.weights(every)).batch
        with torch.no_grad():
            logps, reference = (
                Scorer(lm)(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)
                for lm in (self.policy, self.other)
            )
            if told.get("loss") != "simpo":
                objective.reference = sequence_sums(reference, batch.spans).view(2, -1).T
            return objective.loss(logps, objective.part(every, objective.weights(every)))[0].item()

    def padded(self, sequences: list[Tokens]) -> dict[str, torch.Tensor]:
        """Ids, what is no filler and what is supervised, each [S, T]."""
        width = max(len(s.ids) for s in sequences)
        ids, real, answer = (torch.zeros(len(sequences), width, dtype=torch.long) for _ in range(3))
        for line, s in enumerate(sequences):
            ids[line, : len(s.ids)] = torch.from_numpy(s.ids.astype("int64"))
            real[line, : len(s.ids)] = 1
            answer[line, s.prompt : len(s.ids)] = 1
        return {"input_ids": ids, "attention_mask": real, "completion_mask": answer}

    def simpo_of_trl(self, **told: Any) -> float:
        from trl.experimental.cpo import CPOTrainer

        batch = self.padded([row.sequences[side] for side in (0, 1) for row in self.rows])
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        with torch.no_grad():
            logits = self.policy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        means = CPOTrainer.get_batch_logps(logits, labels, average_log_prob=True)
        trainer = SimpleNamespace(
            alpha=0.0,
            label_smoothing=0.0,
            loss_type="simpo",
            accelerator=SimpleNamespace(device="cpu"),
            **told,
        )
        return float(CPOTrainer.cpo_loss(trainer, *means.chunk(2))[0].mean())

    def sft_of_trl(self, batch: dict[str, torch.Tensor]) -> float:
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        trainer = self.sft_trainer([{"prompt": "a", "completion": "b"}])
        with torch.no_grad():
            return float(trainer.compute_loss(self.policy, {**inputs, "labels": labels}))

    def sft_trainer(self, rows: list[dict[str, str]], **told: Any) -> Any:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        config = SFTConfig(str(self.folder / "out"), use_cpu=True, bf16=False, report_to="none", **told)
        data = Dataset.from_list(rows)
        return SFTTrainer(self.policy, config, train_dataset=data, processing_class=self.tokenizer)

    def trl(self, **told: Any) -> float:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        config = DPOConfig(str(self.folder / "out"), use_cpu=True, bf16=False, report_to="none", **told)
        one = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
        trainer = DPOTrainer(
            self.policy, self.other, config, train_dataset=one, processing_class=self.tokenizer
        )
        batch = self.padded([row.sequences[side] for side in (0, 1) for row in self.rows])
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model.eval(), batch))

    def rewards_of_trl(self, model: Any, **told: Any) -> float:
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer

        config = RewardConfig(str(self.folder / "out"), use_cpu=True, bf16=False, report_to="none", **told)
        one = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
        trainer = RewardTrainer(model, config, train_dataset=one, processing_class=self.tokenizer)
        batch = self.padded([row.sequences[side] for side in (0, 1) for row in self.rows])
        del batch["completion_mask"]
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model.eval(), batch))


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    pytest.importorskip("trl")
    return Oracle(tmp_path_factory.mktemp("oracle"))


def test_sigmoid(oracle: Oracle) -> None:
    assert oracle.ours(beta=0.3) == pytest.approx(oracle.trl(beta=0.3), rel=1e-5)


def test_ipo_of_trl_is_the_one_per_token(oracle: Oracle) -> None:
    theirs = oracle.trl(beta=0.3, loss_type=["ipo"])
    assert oracle.ours(beta=0.3, loss="ipo_mean") == pytest.approx(theirs, rel=1e-5)
    assert oracle.ours(beta=0.3, loss="ipo") != pytest.approx(theirs, rel=1e-2)


def test_trl_ignores_label_smoothing(oracle: Oracle) -> None:
    assert oracle.trl(beta=0.3, label_smoothing=0.2) == oracle.trl(beta=0.3)
    assert oracle.ours(beta=0.3, label_smoothing=0.2) != pytest.approx(oracle.ours(beta=0.3), rel=1e-3)


def test_apo_zero(oracle: Oracle) -> None:
    theirs = oracle.trl(beta=0.3, loss_type=["apo_zero"])
    assert oracle.ours(beta=0.3, loss="apo_zero") == pytest.approx(theirs, rel=1e-5)


def test_robust(oracle: Oracle) -> None:
    theirs = oracle.trl(beta=0.3, label_smoothing=0.2, loss_type=["robust"])
    assert oracle.ours(beta=0.3, label_smoothing=0.2, loss="robust") == pytest.approx(theirs, rel=1e-5)


def test_simpo_has_gamma_in_the_scale_of_rewards(oracle: Oracle) -> None:
    theirs = oracle.simpo_of_trl(beta=2.0, simpo_gamma=1.0)
    ours = oracle.ours(beta=2.0, gamma=1.0, loss="simpo")
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_sft_token_mean(oracle: Oracle) -> None:
    rows = [Example(row.id, row.sequences[:1]) for row in oracle.rows]
    every = range(len(rows))
    objective = Imitation(rows, "token_mean")
    part = objective.part(every, objective.weights(every))
    batch = part.batch
    with torch.no_grad():
        logps = Scorer(oracle.policy)(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)
    theirs = oracle.sft_of_trl(oracle.padded([row.sequences[0] for row in oracle.rows]))
    assert objective.loss(logps, part)[0].item() == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("centering", [0.0, 0.3])
def test_rewards(oracle: Oracle, centering: float) -> None:
    model = start_reward_model(oracle.folder / "model", torch.float32, seed=0).eval()
    told = {"kind": "reward", "model": "m", "data": "d", "epochs": 1, "learning_rate": 1.0}
    objective = Ranking(oracle.rows, Reward.model_validate({**told, "centering": centering}))
    every = range(len(oracle.rows))
    part = objective.part(every, objective.weights(every))
    batch = part.batch
    rewarder = Rewarder(model)
    with torch.no_grad():
        rewards = rewarder(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)
    rewarder.attend_as_made(True)
    theirs = oracle.rewards_of_trl(model, center_rewards_coefficient=centering or None)
    assert objective.loss(rewards, part)[0].item() == pytest.approx(theirs, rel=1e-5)


def test_truncation_of_trl_takes_the_end_of_sequence_away(oracle: Oracle) -> None:
    rows = [{"prompt": "reverse abc", "completion": "cba" * 9}]
    whole, cut = (oracle.sft_trainer(rows, max_length=length).train_dataset[0] for length in (96, 20))
    eos = oracle.tokenizer.eos_token_id
    assert whole["input_ids"][-1] == eos
    assert len(cut["input_ids"]) == 20 and eos not in cut["input_ids"]
