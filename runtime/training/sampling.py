"""Draws completions of prompts: the `sample` stage's work."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.chat import Renderer
from runtime.files import read_rows, sync, write_rows
from runtime.job import Job, JobError
from runtime.models import load_model, locate, longest, open_renderer
from runtime.stages.sample import Sampling
from runtime.training.data import column

DONE = "samples.jsonl"

# A batch sheds its finished rows once they are this share of it: shedding copies the cache.
_SHED = 0.25


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its row, its ids, and whether they were cut."""

    row: Mapping[str, Any]
    ids: list[int]
    cut: bool

    @property
    def id(self) -> str:
        return str(self.row["id"])


def uniforms(seed: int, name: str, count: int) -> NDArray[np.float64]:
    """The random stream of one prompt: `count` numbers in [0, 1), a pure function of seed and id.

    Philox's raw words are part of numpy's stability promise; its drawing methods are not.
    """
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest(), "big")
    words = np.random.Philox(key=key).random_raw(count)
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, np.float64)


def choose(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """Next ids [B] from logits [B, V] and one number in [0, 1) each [B].

    temperature 0 takes the likeliest. Otherwise the distribution at that temperature is cut to the
    smallest set of likeliest tokens with a mass of `top_p` at least (Holtzman et al. 2020, arXiv
    1904.09751), and the cumulative distribution is inverted in the order of the vocabulary: rounding
    moves its borders a little, but does not permute tokens.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    chances = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        chances = _nucleus(chances, top_p)
    mass = chances.cumsum(dim=-1)
    reached = mass <= uniform.double().unsqueeze(1) * mass[:, -1:]
    # A token of no mass is never the first to pass the mark; the clamp meets rounding at the very end.
    last = chances.shape[1] - 1 - (chances.flip(1) > 0).int().argmax(dim=1)
    return torch.minimum(reached.sum(dim=1), last)


def _nucleus(chances: Tensor, top_p: float) -> Tensor:
    """Zero everything outside the nucleus; [B, V] -> [B, V], not normalised again."""
    ordered, index = chances.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p  # the mass before a token already suffices
    return torch.zeros_like(chances).scatter(1, index, ordered.masked_fill(outside, 0.0))


class Generator:
    """Completions of a batch of prompts, with a key-value cache, padded on the left.

    Limits: one process and one device; a batch waits for its longest completion, though finished
    rows are shed. For large models and many prompts a serving engine behind an API is faster.
    """

    def __init__(self, model: Any, renderer: Renderer, config: Sampling) -> None:
        self.model, self.renderer, self.config = model, renderer, config
        self.device = next(model.parameters()).device
        self.tokens = len(renderer.tokenizer)  # embeddings may be padded to more; those are no tokens

    @torch.inference_mode()
    def complete(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Completion ids of each prompt; EOS comes last where the completion ended by itself."""
        from transformers import DynamicCache

        config, count = self.config, len(prompts)
        ids, mask = self._pad([p.ids for p in prompts])
        drawn = np.stack([uniforms(config.seed, p.id, config.max_new_tokens) for p in prompts])
        uniform = torch.from_numpy(drawn).to(self.device)
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        written = torch.full((count, config.max_new_tokens), self.renderer.eos, device=self.device)
        rows = torch.arange(count, device=self.device)  # which prompts are still at work
        ended = torch.zeros(count, dtype=torch.bool, device=self.device)
        cache = DynamicCache(config=self.model.config)
        even = bool(mask.all())  # no padding: the attention kernels are faster without a mask
        for step in range(config.max_new_tokens):
            logits = self.model(
                input_ids=ids,
                attention_mask=None if even else mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1, : self.tokens]
            chosen = choose(logits.float(), uniform[rows, step], config.temperature, config.top_p)
            chosen = torch.where(ended, self.renderer.eos, chosen)
            written[rows, step] = chosen
            ended = ended | (chosen == self.renderer.eos)
            share = float(ended.float().mean())
            if share == 1:
                break
            ids, positions = chosen.unsqueeze(1), positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            if share >= _SHED:
                left = (~ended).nonzero().squeeze(1)
                rows, ids, positions, mask, ended = (
                    rows[left],
                    ids[left],
                    positions[left],
                    mask[left],
                    ended[left],
                )
                cache.batch_select_indices(left)
        return [self._until_end(line) for line in written.tolist()]

    def _pad(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """ids and mask [B, T], padded on the left."""
        width = max(map(len, prompts))
        ids, mask = np.zeros((len(prompts), width), np.int64), np.zeros((len(prompts), width), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)

    def _until_end(self, line: list[int]) -> list[int]:
        eos = self.renderer.eos
        return line[: line.index(eos) + 1] if eos in line else line


def read_prompts(path: Path, renderer: Renderer, config: Sampling) -> list[Prompt]:
    """Prompts of a JSON-lines file. Raises JobError for repeated ids: each names a random stream."""
    try:
        rows = list(read_rows(path))
    except ValueError as error:
        raise JobError(str(error)) from error
    names = [str(row["id"]) for row in rows]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise JobError(f"{path}: the id {twice!r} stands there more than once")
    limit = config.max_prompt_length
    encoded = renderer.prompts(column(rows, "prompt", path))
    return [Prompt(row, ids[-limit:], len(ids) > limit) for row, ids in zip(rows, encoded, strict=True)]


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Prompts of like length go together; the longest first, so that a lack of memory shows at once."""
    ordered = sorted(prompts, key=lambda p: (-len(p.ids), p.id))
    for first in range(0, len(ordered), size):
        yield ordered[first : first + size]


def _finished(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier tries completed; a last line that was torn off is dropped from the file."""
    done: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return done
    good = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            row = json.loads(line)
            done[row["id"]] = row
            good += len(line)
    with path.open("rb+") as file:
        file.truncate(good)
    return done


def sample(job: Job) -> None:
    """Carry out a `sample` job: one completion for each prompt, in the order of the prompts."""
    source = job.input("prompts").path
    origin = locate(job.input("model"), job.scratch, lambda: (row["prompt"] for row in read_rows(source)))
    renderer = open_renderer(origin, job.config.chat)
    prompts = read_prompts(source, renderer, job.config)
    done = _finished(job.scratch / DONE)
    left = [p for p in prompts if p.id not in done]
    if left:
        _draw(job, _open_generator(job, origin.folder, renderer, left), left, done)
    rows = [_row(p, done) for p in prompts]
    write_rows(job.out / "data.jsonl", rows)
    job.report(
        rows=len(rows),
        finished=sum(row["finished"] for row in rows),
        prompts_cut=sum(p.cut for p in prompts),
        empty=sum(not row["completion"] for row in rows),
    )


def _open_generator(job: Job, folder: Path, renderer: Renderer, prompts: Sequence[Prompt]) -> Generator:
    cuda = torch.cuda.is_available()
    model = load_model(folder, torch.bfloat16 if cuda else torch.float32).eval().to("cuda" if cuda else "cpu")
    positions, needed = longest(model.config), max(len(p.ids) for p in prompts) + job.config.max_new_tokens
    if positions is not None and needed > positions:
        raise JobError(
            f"the longest prompt and {job.config.max_new_tokens} new tokens need {needed} positions, "
            f"and the model has {positions}: lower `max_new_tokens` or `max_prompt_length`"
        )
    return Generator(model, renderer, job.config)


def _draw(job: Job, generator: Generator, left: Sequence[Prompt], done: dict[str, dict[str, Any]]) -> None:
    """Complete what is left; each batch is written down before the next is begun."""
    started, tokens = time.perf_counter(), 0
    total = len(done) + len(left)
    with (job.scratch / DONE).open("a", encoding="utf-8") as file:
        for batch in _batches(left, job.config.batch_size):
            completions = generator.complete(batch)
            for prompt, ids in zip(batch, completions, strict=True):
                done[prompt.id] = _completed(prompt, ids, generator.renderer)
                file.write(json.dumps(done[prompt.id], ensure_ascii=False) + "\n")
            file.flush()
            tokens += sum(map(len, completions))
            job.progress(len(done), total)
    sync(job.scratch / DONE)
    seconds = time.perf_counter() - started
    job.report(new_tokens=tokens, new_tokens_per_s=round(tokens / seconds, 1), seconds=round(seconds, 3))


def _completed(prompt: Prompt, ids: Sequence[int], renderer: Renderer) -> dict[str, Any]:
    finished = bool(ids) and ids[-1] == renderer.eos
    return {
        "id": prompt.id,
        "completion": renderer.decode(ids[:-1] if finished else ids),
        "finished": finished,
    }


def _row(prompt: Prompt, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if prompt.id not in done:
        raise RuntimeError(f"the prompt {prompt.id} got no completion")
    copied = {name: prompt.row[name] for name in ("id", "prompt", "answer") if name in prompt.row}
    return {**copied, "completion": done[prompt.id]["completion"], "finished": done[prompt.id]["finished"]}
