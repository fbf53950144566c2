"""Sequences of tokens as the tensors of one forward pass: end to end, or padded side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.training.data import Example, Tokens

# Attention works on rows. Shorter rows are computed apart where that saves so many places.
_WORTH = 1024
_LIKE = 0.7  # of the longest row: what is longer stays with it
_MOST_GROUPS = 4


class Layout(NamedTuple):
    """Where the tokens of a flat batch stand in the rows that attention works on.

    shapes: rows and width of each group of rows; together they have P places. rows: [P] the token at
    each place, or 0 behind the end of a row, where causal attention never looks. places: [T] the place
    of each token. shared, again: [M] tokens that stand in a second row too, and where.
    """

    shapes: tuple[tuple[int, int], ...]
    rows: Tensor
    places: Tensor
    shared: Tensor
    again: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass takes.

    ids: [R, T] inputs, each sequence without its last token (nothing follows it); R is 1 where the
    sequences lie end to end. positions: [1, T] of each token in its sequence; None where padded.
    picks: [N] the place in `ids`, counted row by row, of the token before each supervised one.
    targets: [N] the supervised tokens, sequence by sequence. spans: [S, M] bool, true as often in each
    row as the sequence has supervised tokens. layout: None where padded.
    """

    ids: Tensor
    positions: Tensor | None
    picks: Tensor
    targets: Tensor
    spans: Tensor
    layout: Layout | None
    real: int  # tokens of `ids` that are no filler

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self

        def moved(x: Tensor) -> Tensor:
            return x.pin_memory().to(device, non_blocking=True)

        layout = self.layout and self.layout._replace(
            **{name: moved(getattr(self.layout, name)) for name in ("rows", "places", "shared", "again")}
        )
        return Batch(
            moved(self.ids),
            None if self.positions is None else moved(self.positions),
            moved(self.picks),
            moved(self.targets),
            moved(self.spans),
            layout,
            self.real,
        )


def lay_out(
    sequences: Sequence[Tokens], *, pairs: bool = False, padded: bool = False, whole: bool = False
) -> Batch:
    """Put sequences into one batch.

    pairs: the second half of the sequences has the prompts of the first half. Laid end to end, such a
    prompt is computed once, and both completions follow it: the same numbers for less work.
    whole: keep the last token of each sequence too. `picks` then is [S], the place of that token, and
    `targets` has no meaning.
    """
    prompts = [s.prompt for s in sequences]
    if whole:
        sequences = [Tokens(np.append(s.ids, np.int32(0)), len(s.ids)) for s in sequences]
    return _padded(sequences) if padded else _flat(sequences, prompts, pairs)


def _padded(sequences: Sequence[Tokens]) -> Batch:
    """One row for each sequence. The filler is id 0 on the right: no loss and no attention reads it."""
    width = max(len(s.ids) for s in sequences) - 1
    ids = np.zeros((len(sequences), width), np.int64)
    for row, s in enumerate(sequences):
        ids[row, : len(s.ids) - 1] = s.ids[:-1]
    picks = [row * width + np.arange(s.prompt - 1, len(s.ids) - 1) for row, s in enumerate(sequences)]
    real = sum(len(s.ids) - 1 for s in sequences)
    return Batch(torch.from_numpy(ids), None, *_supervised(sequences, picks), None, real)


def _flat(sequences: Sequence[Tokens], prompts: Sequence[int], pairs: bool) -> Batch:
    """All tokens in one row, and the rows in which attention finds them again. prompts: their lengths."""
    half = len(sequences) // 2 if pairs else len(sequences)
    tokens: list[NDArray[np.int64]] = []  # the tokens of each sequence, as indices of the flat row
    ids: list[NDArray[np.int32]] = []
    positions: list[NDArray[np.int64]] = []
    total = 0
    known_of = [prompt if number >= half else 0 for number, prompt in enumerate(prompts)]
    for number, (s, known) in enumerate(zip(sequences, known_of, strict=True)):  # known: to the first half
        own = len(s.ids) - 1 - known
        ids.append(s.ids[known:-1])
        positions.append(np.arange(known, known + own))
        fresh = np.arange(total, total + own)
        tokens.append(np.concatenate([tokens[number - half][:known], fresh]) if known else fresh)
        total += own
    picks = [t[s.prompt - 1 :] for t, s in zip(tokens, sequences, strict=True)]
    return Batch(
        torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        torch.from_numpy(np.concatenate(positions).astype(np.int64))[None],
        *_supervised(sequences, picks),
        _layout(tokens, known_of, total),
        total,
    )


def _layout(tokens: Sequence[NDArray[np.int64]], known: Sequence[int], total: int) -> Layout:
    rows: list[NDArray[np.int64]] = []
    shapes: list[tuple[int, int]] = []
    places = np.zeros(total, np.int64)
    shared: list[NDArray[np.int64]] = []
    again: list[NDArray[np.int64]] = []
    at = 0
    for group in _groups([len(t) for t in tokens]):
        width = len(tokens[group[0]])
        block = np.zeros((len(group), width), np.int64)
        for row, number in enumerate(group):
            mine, second = tokens[number], known[number]
            block[row, : len(mine)] = mine
            here = at + row * width + np.arange(len(mine))
            places[mine[second:]] = here[second:]
            shared.append(mine[:second])
            again.append(here[:second])
        rows.append(block.ravel())
        shapes.append((len(group), width))
        at += block.size
    told = (torch.from_numpy(np.concatenate(x)) for x in (rows, [places], shared, again))
    return Layout(tuple(shapes), *told)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Sequences of like length, the longest first; the rest stays together where a cut would save little."""
    ordered = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    groups: list[list[int]] = []
    left = sum(lengths)
    for done, number in enumerate(ordered):
        width = lengths[groups[-1][0]] if groups else 0
        saved = width * (len(ordered) - done) - left
        if not groups or (lengths[number] < _LIKE * width and saved >= _WORTH and len(groups) < _MOST_GROUPS):
            groups.append([])
        groups[-1].append(number)
        left -= lengths[number]
    return groups


def _supervised(
    sequences: Sequence[Tokens], picks: Sequence[NDArray[np.int64]]
) -> tuple[Tensor, Tensor, Tensor]:
    """`picks`, `targets` and `spans` of a batch."""
    counts = torch.tensor([s.supervised for s in sequences])
    return (
        torch.from_numpy(np.concatenate(picks)),
        torch.from_numpy(np.concatenate([s.ids[s.prompt :] for s in sequences]).astype(np.int64)),
        torch.arange(int(counts.max())) < counts[:, None],
    )


def lay_out_pairs(
    examples: Sequence[Example], items: Sequence[int], *, padded: bool, whole: bool = False
) -> Batch:
    """All chosen, then all rejected sequences of the items, as `lay_out` puts them into a batch."""
    sequences = [examples[item].sequences[side] for side in (0, 1) for item in items]
    return lay_out(sequences, pairs=True, padded=padded, whole=whole)
