"""Rows to token ids, the order of examples, and the parts an optimizer batch is computed in."""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.chat import Renderer
from runtime.files import read_rows
from runtime.job import JobError
from runtime.training_config import TrainingConfig, Truncation

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

    @property
    def computed(self) -> int:
        """Tokens that must be computed: no last one, which nothing follows, and a common prompt once."""
        again = sum(s.prompt for s in self.sequences[1:])
        return self.tokens - len(self.sequences) - again


@dataclass(slots=True)
class Counts:
    """What truncation did to rows and prompts. A completion that was cut has lost its EOS.

    cut: kept rows that lost anything.
    """

    rows: int = 0
    kept: int = 0
    dropped: int = 0
    cut: int = 0
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
            counts.cut += 1
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


def units(examples: Sequence[Example], config: TrainingConfig) -> list[list[int]]:
    """What `batch_size` counts: single examples, or bins of them."""
    if config.packing is None:
        return [[item] for item in range(len(examples))]
    capacity = config.max_length * len(examples[0].sequences)
    return bins([example.tokens for example in examples], capacity)


def batch(units: Sequence[Sequence[int]], order: Sequence[int], number: int, size: int) -> list[int]:
    """Items of the optimizer batch `number` of an epoch whose units have this order."""
    return [item for unit in order[number * size : (number + 1) * size] for item in units[unit]]


def parts(
    items: Sequence[int], examples: Sequence[Example], config: TrainingConfig, ranks: int, *, padded: bool
) -> list[list[list[int]]]:
    """The parts of an optimizer batch, as `split` gives them, under the limits of a config."""
    tokens = [examples[item].tokens for item in items]
    return split(items, tokens, ranks, config.micro_batch, config.micro_tokens, padded=padded)


def split(
    items: Sequence[int],
    tokens: Sequence[int],
    ranks: int,
    micro_batch: int | None = None,
    micro_tokens: int | None = None,
    *,
    padded: bool = False,
) -> list[list[list[int]]]:
    """The parts an optimizer batch is computed in: [rank][micro-batch] -> items.

    tokens: length of each of `items`. A part has `micro_batch` items and `micro_tokens` tokens at most
    (or a single item that is longer). All ranks get equally many parts (their collectives must meet),
    of which some may be empty; the parts are of like size, or, where they are padded, of like lengths.
    Any split gives the same gradient up to rounding.
    """
    largest = min(micro_batch or len(items), -(-len(items) // ranks)) if padded else micro_batch or len(items)
    parts = ranks * -(-len(items) // (ranks * largest))
    ordered = sorted(zip(tokens, items, strict=True), reverse=True)
    while True:
        chunks = (_neighbours if padded else _balanced)(ordered, parts, largest)
        if micro_tokens is None or all(_fits(chunk, micro_tokens) for chunk in chunks):
            break
        parts += ranks
    # Chunks of like size are computed at the same time, so that no rank waits long.
    chunks.sort(key=lambda chunk: -sum(length for length, _ in chunk))
    found = [[item for _, item in chunk] for chunk in chunks]
    return [found[rank::ranks] for rank in range(ranks)]


_Sized = list[tuple[int, int]]  # (tokens, item)


def _fits(chunk: _Sized, tokens: int) -> bool:
    return len(chunk) <= 1 or sum(length for length, _ in chunk) <= tokens


def _neighbours(ordered: _Sized, parts: int, largest: int) -> list[_Sized]:
    """Cut a list into parts of equal number."""
    bounds = [len(ordered) * part // parts for part in range(parts + 1)]
    return [ordered[bounds[part] : bounds[part + 1]] for part in range(parts)]


def _balanced(ordered: _Sized, parts: int, largest: int) -> list[_Sized]:
    """Give each item, the longest first, to the part that has the fewest tokens and room for it."""
    heap = [(0, part) for part in range(parts)]
    chunks: list[_Sized] = [[] for _ in range(parts)]
    for length, item in ordered:
        load, part = heapq.heappop(heap)
        chunks[part].append((length, item))
        if len(chunks[part]) < largest:
            heapq.heappush(heap, (load + length, part))
    return chunks


def bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Items in bins of at most `capacity` tokens: best fit, the longest first; each bin in their order.

    An item that is longer than a bin has one of its own.
    """
    found: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        at = bisect.bisect_left(room, (lengths[item], -1))
        left, number = room.pop(at) if at < len(room) else (capacity, len(found))
        if number == len(found):
            found.append([])
        found[number].append(item)
        bisect.insort(room, (left - lengths[item], number))
    return [sorted(packed) for packed in found]
