"""Draws completions of prompts: the `sample` stage's work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.chat import Renderer
from runtime.draws import uniforms
from runtime.files import read_rows, sync, write_rows
from runtime.job import Job, JobError
from runtime.models import load_model, locate, longest, open_renderer, probe_logits
from runtime.sampling.engine import Engine, Prompt, Reply
from runtime.stages.sample import Sampling
from runtime.training.data import column

DONE = "samples.jsonl"
ATTEMPTS = 3  # how often a prompt is asked for before the job fails
MOST_NAMED = 10
STRANGER = 0.5  # nats; rounding in bf16 moves log-probabilities by some hundredths in the mean

# A batch sheds its finished rows once they are this share of it: shedding copies the cache.
_SHED = 0.25


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
        _require_room(origin.folder, left, job.config)
        _draw(job, origin.folder, renderer, left, done)
    if job.config.engine != "own":
        job.report(fidelity=fidelity(origin.folder, prompts, done, job.scratch / DONE))
    rows = [_row(p, done) for p in prompts]
    write_rows(job.out / "data.jsonl", rows)
    job.report(
        rows=len(rows),
        finished=sum(row["finished"] for row in rows),
        prompts_cut=sum(p.cut for p in prompts),
        empty=sum(not row["completion"] for row in rows),
    )


def open_engine(job: Job, folder: Path, renderer: Renderer) -> Engine:
    """The engine that a job asks for, with the model of a folder."""
    if job.config.engine == "vllm":
        from runtime.sampling.vllm import VllmEngine

        return VllmEngine(job.config, folder, renderer, job.scratch)
    model = open_model(folder)
    if job.config.engine == "continuous":
        from runtime.sampling.continuous import ContinuousEngine

        return ContinuousEngine(job.config, model, renderer)
    return OwnEngine(Generator(model, renderer, job.config))


def open_model(folder: Path) -> Any:
    """A model to draw from: in bf16 on the GPU, in fp32 where there is none."""
    cuda = torch.cuda.is_available()
    return load_model(folder, torch.bfloat16 if cuda else torch.float32).eval().to("cuda" if cuda else "cpu")


def _require_room(folder: Path, prompts: Sequence[Prompt], config: Sampling) -> None:
    """Raise JobError where the model has too few positions."""
    from transformers import AutoConfig

    positions = longest(AutoConfig.from_pretrained(folder))
    needed = max(len(p.ids) for p in prompts) + config.max_new_tokens
    if positions is not None and needed > positions:
        raise JobError(
            f"the longest prompt and {config.max_new_tokens} new tokens need {needed} positions, "
            f"and the model has {positions}: lower `max_new_tokens` or `max_prompt_length`"
        )


class OwnEngine:
    """This program's own generator; see `Engine`."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.troubles: dict[str, str] = {}  # it has none: it answers, or it raises

    def complete(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        for batch in _batches(prompts, self.generator.config.batch_size):
            for prompt, ids in zip(batch, self.generator.complete(batch), strict=True):
                yield Reply(prompt.id, ids)

    def close(self) -> None:
        pass


def _draw(
    job: Job, folder: Path, renderer: Renderer, left: Sequence[Prompt], done: dict[str, dict[str, Any]]
) -> None:
    """Complete what is left, each prompt once; every completion is written down as it comes.

    Raises JobError where prompts have none after all attempts; the next try asks for those alone.
    """
    started, tokens, total = time.perf_counter(), 0, len(done) + len(left)
    missing = {p.id: p for p in left}
    with (
        closing(open_engine(job, folder, renderer)) as engine,
        (job.scratch / DONE).open("a", encoding="utf-8") as file,
    ):
        for _ in range(ATTEMPTS):
            for reply in engine.complete(list(missing.values())):
                if missing.pop(reply.id, None) is None:
                    continue  # it has one already, or nobody asked
                done[reply.id] = _completed(reply, renderer)
                file.write(json.dumps(done[reply.id], ensure_ascii=False) + "\n")
                file.flush()
                tokens += len(reply.ids)
                job.progress(len(done), total)
            if not missing:
                break
    sync(job.scratch / DONE)
    if missing:
        raise JobError(_lacking(list(missing), total, engine.troubles))
    seconds = time.perf_counter() - started
    job.report(new_tokens=tokens, new_tokens_per_s=round(tokens / seconds, 1), seconds=round(seconds, 3))


def _lacking(missing: Sequence[str], total: int, troubles: Mapping[str, str]) -> str:
    named = [f"  {name}: {troubles.get(name, 'no reply')}" for name in missing[:MOST_NAMED]]
    more = [f"  and {len(missing) - MOST_NAMED} more"] if len(missing) > MOST_NAMED else []
    head = f"{len(missing)} of {total} prompts have no completion after {ATTEMPTS} attempts:"
    return "\n".join([head, *named, *more, "what is done is kept: run again to ask for these alone"])


def _completed(reply: Reply, renderer: Renderer) -> dict[str, Any]:
    finished = bool(reply.ids) and reply.ids[-1] == renderer.eos
    completion = renderer.decode(reply.ids[:-1] if finished else reply.ids)
    row = {"id": reply.id, "completion": completion, "finished": finished}
    return row if reply.logprobs is None else {**row, "drawn": [reply.ids, reply.logprobs]}


def _row(prompt: Prompt, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if prompt.id not in done:
        raise RuntimeError(f"the prompt {prompt.id} got no completion")
    copied = {name: prompt.row[name] for name in ("id", "prompt", "answer") if name in prompt.row}
    return {**copied, "completion": done[prompt.id]["completion"], "finished": done[prompt.id]["finished"]}


# ---------------------------------------------------------------- fidelity


def fidelity(
    folder: Path, prompts: Sequence[Prompt], done: Mapping[str, Mapping[str, Any]], path: Path
) -> dict[str, Any] | None:
    """How far an engine's log-probabilities of tokens that it drew lie from our own model code's, in nats.

    Over the few prompts of which the engine told them; None where it told none. Raises JobError, and
    forgets what is done, where they are those of another model.
    """
    told = [(p, done[p.id]["drawn"]) for p in prompts if "drawn" in done[p.id]]
    if not told:
        return None
    model = open_model(folder)
    off: list[float] = []
    for prompt, (ids, logprobs) in told:
        logits = probe_logits(model, [*prompt.ids, *ids])[len(prompt.ids) - 1 : -1]
        ours = logits.log_softmax(dim=-1).gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)
        off += (ours - torch.tensor(logprobs)).abs().tolist()
    mean = sum(off) / len(off)
    if not mean <= STRANGER:
        path.unlink()
        raise JobError(
            f"the engine's log-probabilities lie {mean:.2f} nats from this model's in the mean: it has "
            "another model, or one that was made much smaller; look at `vllm`"
        )
    figures = {"largest": round(max(off), 6), "mean": round(mean, 6)}
    return {"prompts": len(told), "tokens": len(off), **figures}
