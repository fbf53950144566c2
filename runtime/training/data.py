"""Rows to token ids, the order of examples, and the parts an optimizer batch is computed in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.chat import Renderer
from runtime.files import read_rows
from runtime.job import JobError
from runtime.training_config import Truncation

_CHUNK = 4096  # rows tokenised in one call


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence: `ids` [T], of which the first `prompt` are not supervised. `prompt` is at least 1."""

    ids: NDArray[np.int32]
    prompt: int

    @property
    def supervised(self) -> int:
        return len(self.ids) - self.prompt


@dataclass(frozen=True, slots=True)
class Example:
    """A row: one sequence for SFT, (chosen, rejected) for preferences."""

    id: str
    sequences: tuple[Tokens, ...]

    @property
    def tokens(self) -> int:
        return sum(len(s.ids) for s in self.sequences)

    @property
    def supervised(self) -> int:
        return sum(s.supervised for s in self.sequences)


@dataclass(slots=True)
class Counts:
    """What truncation did to rows and prompts. A completion that was cut has lost its EOS."""

    rows: int = 0
    kept: int = 0
    dropped: int = 0
    prompts_cut: int = 0
    completions_cut: int = 0

    def told(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Lengths:
    """The length policy of a training config."""

    whole: int
    prompt: int
    policy: Truncation


@dataclass(slots=True)
class Cut:
    """Applies a length policy to rows and counts what it did."""

    lengths: Lengths
    counts: Counts = field(default_factory=Counts)

    def apply(self, prompt: list[int], completions: Sequence[list[int]]) -> tuple[Tokens, ...] | None:
        """Sequences of one row, all with the same prompt; None where the row is dropped.

        A row is too long when any of its sequences is. `completions` end with EOS.
        """
        limits, counts = self.lengths, self.counts
        counts.rows += 1
        if len(prompt) + max(map(len, completions)) > limits.whole:
            if limits.policy == "drop":
                counts.dropped += 1
                return None
            if len(prompt) > limits.prompt:
                counts.prompts_cut += 1
                prompt = (
                    prompt[: limits.prompt] if limits.policy == "keep_start" else prompt[-limits.prompt :]
                )
        counts.kept += 1
        room = limits.whole - len(prompt)
        counts.completions_cut += sum(len(c) > room for c in completions)
        return tuple(Tokens(np.asarray(prompt + c[:room], np.int32), len(prompt)) for c in completions)


def read_examples(path: Path, renderer: Renderer, fields: Sequence[str], cut: Cut) -> list[Example]:
    """Examples of a JSON-lines file, in its order.

    fields: the completions of a row (`completion`, or `chosen` and `rejected`). Raises JobError for
    rows without these fields and where no row is left.
    """
    try:
        rows = list(read_rows(path))
    except ValueError as error:
        raise JobError(str(error)) from error
    examples: list[Example] = []
    for first in range(0, len(rows), _CHUNK):
        examples += _encode(rows[first : first + _CHUNK], path, renderer, fields, cut)
    if not examples:
        raise JobError(
            f"nothing to train on: {cut.counts.rows} rows in {path}, {cut.counts.dropped} dropped as too long"
        )
    return examples


def column(rows: Sequence[Mapping[str, Any]], name: str, path: Path) -> list[str]:
    """The texts of one field. Raises JobError for a row that has none."""
    for row in rows:
        if not isinstance(row.get(name), str):
            raise JobError(f"{path}: the row {row.get('id')!r} has no text in its field `{name}`")
    return [row[name] for row in rows]


def _encode(
    rows: Sequence[Mapping[str, Any]], path: Path, renderer: Renderer, fields: Sequence[str], cut: Cut
) -> list[Example]:
    prompts = renderer.prompts(column(rows, "prompt", path))
    columns = [renderer.completions(column(rows, name, path)) for name in fields]
    examples: list[Example] = []
    for row, prompt, *completions in zip(rows, prompts, *columns, strict=True):
        sequences = cut.apply(prompt, completions)
        if sequences is not None:
            examples.append(Example(str(row["id"]), sequences))
    return examples


def data_digest(examples: Sequence[Example]) -> str:
    """Hash of all ids and tokens: what a resumed run must still find."""
    told = hashlib.sha256()
    for example in examples:
        told.update(example.id.encode())
        for sequence in example.sequences:
            told.update(b"%d:" % sequence.prompt)
            told.update(sequence.ids.tobytes())
    return told.hexdigest()


def order(seed: int, epoch: int, count: int) -> list[int]:
    """A permutation of `count` items: a pure function of its arguments, in every version of everything.

    Items are sorted by a hash rather than drawn from a library's generator, whose streams may change.
    """

    def rank(item: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{epoch}/{item}".encode(), digest_size=16).digest()

    return sorted(range(count), key=rank)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimizer steps of one pass; the last, smaller batch is a step too, so every row is seen each epoch."""
    return -(-count // batch_size)


def split(
    items: Sequence[int], tokens: Sequence[int], ranks: int, micro_batch: int | None
) -> list[list[list[int]]]:
    """The parts an optimizer batch is computed in: [rank][micro-batch] -> items.

    tokens: length of each of `items`. Items of like length go together, and all ranks get equally
    many micro-batches (their collectives must meet), of which some may be empty. Any split gives the
    same gradient up to rounding.
    """
    per_rank = -(-len(items) // ranks)
    micros = -(-per_rank // (micro_batch or per_rank))
    parts = ranks * micros
    by_length = [item for _, item in sorted(zip(tokens, items, strict=True), reverse=True)]
    bounds = [len(items) * part // parts for part in range(parts + 1)]
    chunks = [by_length[bounds[part] : bounds[part + 1]] for part in range(parts)]
    # Chunks that are neighbours in length are computed at the same time, so that no rank waits long.
    return [[chunks[micro * ranks + rank] for micro in range(micros)] for rank in range(ranks)]


@dataclass(frozen=True, slots=True)
class Padded:
    """Sequences side by side, padded on the right.

    ids: [S, T] inputs, each without its last token (nothing follows it). keep: [S, T] bool, true
    where the next token is supervised. targets: [N] those next tokens, row by row. A causal model
    needs no attention mask here: no real token sees the padding behind it.
    """

    ids: Tensor
    keep: Tensor
    targets: Tensor
    useful: int  # tokens that are not padding

    def to(self, device: torch.device) -> Padded:
        if device.type == "cpu":
            return self
        ids, keep, targets = (
            x.pin_memory().to(device, non_blocking=True) for x in (self.ids, self.keep, self.targets)
        )
        return Padded(ids, keep, targets, self.useful)


def pad(sequences: Sequence[Tokens]) -> Padded:
    """Put sequences side by side. The filler is id 0: no loss and no attention ever reads it."""
    width = max(len(s.ids) for s in sequences) - 1
    ids = np.zeros((len(sequences), width), np.int64)
    keep = np.zeros((len(sequences), width), bool)
    for row, s in enumerate(sequences):
        ids[row, : len(s.ids) - 1] = s.ids[:-1]
        keep[row, s.prompt - 1 : len(s.ids) - 1] = True
    targets = np.concatenate([s.ids[s.prompt :] for s in sequences]).astype(np.int64)
    useful = sum(len(s.ids) - 1 for s in sequences)
    return Padded(torch.from_numpy(ids), torch.from_numpy(keep), torch.from_numpy(targets), useful)
