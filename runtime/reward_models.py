"""Starts, loads, probes and asks reward models: Hugging Face sequence classifiers of one label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.job import Job, JobError
from runtime.models import locate, open_renderer, quiet

if TYPE_CHECKING:
    import torch

    from runtime.training.data import Example, Tokens


def start_reward_model(folder: Path, dtype: torch.dtype, *, seed: int) -> Any:
    """A language model with a reward head instead of its output: normal, 1 / sqrt(width + 1) wide.

    So wide rewards are of the order of 1 at first, whatever the model's size (as Stiennon et al. 2020,
    arXiv 2009.01325). Under ZeRO-3 a collective of all ranks. Raises JobError for a model of which
    transformers has no classifier.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    quiet()
    told = AutoConfig.from_pretrained(folder)
    width = 1 / math.sqrt(told.get_text_config().hidden_size + 1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=dtype, num_labels=1, initializer_range=width
            )
    except ValueError as error:
        if "AutoModelForSequenceClassification" not in str(error):
            raise
        raise JobError(_refusal(told.model_type)) from error
    if not hasattr(model, "score"):
        raise JobError(_refusal(told.model_type))
    if hasattr(told, "initializer_range"):
        model.config.initializer_range = told.initializer_range
    return model


def _refusal(kind: str) -> str:
    return f"a {kind} model cannot become a reward model: transformers has no classifier of it that reads on"


def load_reward_model(folder: Path, dtype: torch.dtype) -> Any:
    """The reward model of a folder."""
    from transformers import AutoModelForSequenceClassification

    quiet()
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)


def set_filler(model: Any, tokenizer: Any) -> None:
    """Give model and tokenizer a pad token that ends no answer.

    Transformers takes the reward of a row at its last token that is no filler: were EOS the filler, the
    reward would be that of the answer before its end. Raises JobError where there is no other token.
    """
    eos = tokenizer.eos_token_id
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    first = (tokenizer.pad_token_id, tokenizer.unk_token_id)
    found = next((i for i in (*first, *special) if i not in (None, eos)), None)
    if found is None:
        raise JobError(
            "the tokenizer has no special token but EOS, so a reward model could not tell filler from the "
            "end of an answer: add a pad token to the model that the study starts from"
        )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(found)
    model.config.get_text_config().pad_token_id = found
    model.get_input_embeddings().padding_idx = found  # a row without gradient, which EOS needs


def probe_rewards(model: Any, ids: list[int], *, pooled: bool = False) -> torch.Tensor:
    """Rewards [T, 1] after each token of one sequence of ids, fp32 on the CPU.

    pooled: the last one as the model itself finds it.
    """
    import torch

    told = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.no_grad():
        rewards = model.score(model.base_model(input_ids=told, use_cache=False)[0])[0]
        if pooled:
            rewards[-1] = model(input_ids=told, use_cache=False).logits[0]
    return rewards.float().cpu()


def probe_pooled(model: Any, ids: list[int]) -> torch.Tensor:
    """`probe_rewards` of a model that was opened anew."""
    return probe_rewards(model, ids, pooled=True)


class Grader:
    """The reward model of a job's input `model`; rows are cut as the config says.

    On a GPU it computes in bf16, but for the head.
    """

    def __init__(self, job: Job) -> None:
        import torch

        from runtime.training.data import Cut, Lengths
        from runtime.training.scoring import Rewarder

        self.job, config = job, job.config
        origin = locate(job.input("model"), job.scratch, tuple)
        self.renderer = open_renderer(origin)
        self.cut = Cut(Lengths(config.max_length, config.max_prompt_length, config.truncation))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_reward_model(origin.folder, torch.float32)
        self.scorer = Rewarder(model, flat=False).eval().to(self.device)

    def read(self, path: Path, fields: Sequence[str]) -> list[Example]:
        """The rows of a file. Raises JobError where there is none, and where the model has no room."""
        from runtime.training.data import read_examples
        from runtime.training.launch import require_room

        examples = read_examples(path, self.renderer, fields, self.cut)
        require_room(self.scorer.lm.config, self.renderer, examples)
        return examples

    def rewards(self, sequences: Iterable[Tokens]) -> list[float]:
        """The reward of each sequence; equal ones are computed once, so that theirs are equal."""
        asked = [(s.ids.tobytes(), s) for s in sequences]
        left = sorted(dict(asked).items(), key=lambda one: -len(one[0]))
        size, known = self.job.config.batch_size, dict[bytes, float]()
        for first in range(0, len(left), size):
            group = left[first : first + size]
            values = self._batch([s for _, s in group])
            known |= zip((name for name, _ in group), values, strict=True)
            self.job.progress(len(known), len(left), "rewards")
        return [known[name] for name, _ in asked]

    def _batch(self, sequences: Sequence[Tokens]) -> list[float]:
        import torch

        from runtime.training.batches import lay_out

        batch = lay_out(sequences, padded=True, whole=True).to(self.device)
        cuda = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=cuda):
            found = self.scorer(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)
        return [float(value) for value in found.tolist()]
