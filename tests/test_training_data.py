"""Tokens, truncation, order, and the parts of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.chat import Renderer
from runtime.files import write_rows
from runtime.job import JobError
from runtime.training.data import Cut, Lengths, Tokens, order, pad, read_examples, split, steps_per_epoch
from runtime.training.tokenizer import train_tokenizer

EOS = 99


@pytest.mark.parametrize(
    ("policy", "expected", "counts"),
    [
        # whole <= 6, prompt <= 2; the prompt is 1 2 3 4, the completion 5 6 EOS, 5 6 7 8 9 EOS
        ("drop", [None, None], {"dropped": 2, "kept": 0, "prompts_cut": 0, "completions_cut": 0}),
        (
            "keep_start",
            [[1, 2, 5, 6, EOS], [1, 2, 5, 6, 7, 8]],
            {"dropped": 0, "kept": 2, "prompts_cut": 2, "completions_cut": 1},
        ),
        (
            "keep_end",
            [[3, 4, 5, 6, EOS], [3, 4, 5, 6, 7, 8]],
            {"dropped": 0, "kept": 2, "prompts_cut": 2, "completions_cut": 1},
        ),
    ],
)
def test_truncation_is_a_policy_and_counted(policy: Any, expected: list[Any], counts: dict[str, int]) -> None:
    cut = Cut(Lengths(6, 2, policy))
    found = [cut.apply([1, 2, 3, 4], [completion]) for completion in ([5, 6, EOS], [5, 6, 7, 8, 9, EOS])]
    assert [None if f is None else f[0].ids.tolist() for f in found] == expected
    assert cut.counts.told() == {"rows": 2, **counts}


def test_rows_that_fit_are_left_alone() -> None:
    cut = Cut(Lengths(6, 2, "keep_end"))
    found = cut.apply([1, 2, 3, 4], [[5, EOS]])
    assert found is not None and found[0].ids.tolist() == [1, 2, 3, 4, 5, EOS]
    assert cut.counts.prompts_cut == 0


def test_both_sides_of_a_pair_keep_one_prompt() -> None:
    found = Cut(Lengths(6, 2, "keep_end")).apply([1, 2, 3, 4], [[5, EOS], [5, 6, 7, EOS]])
    assert found is not None
    assert [f.ids.tolist() for f in found] == [[3, 4, 5, EOS], [3, 4, 5, 6, 7, EOS]]


def test_order_is_a_fixed_permutation_of_each_epoch() -> None:
    assert order(0, 0, 8) == [7, 0, 1, 5, 3, 4, 2, 6]  # pinned: resumed and repeated runs rest on it
    assert order(0, 1, 8) != order(0, 0, 8) != order(1, 0, 8)
    assert sorted(order(3, 2, 500)) == list(range(500))


def test_the_incomplete_batch_is_kept() -> None:
    assert [steps_per_epoch(n, 8) for n in (1, 8, 9)] == [1, 1, 2]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 5), st.none() | st.integers(1, 7)
)
def test_any_split_has_each_item_once_and_equal_numbers_of_parts(
    lengths: list[int], ranks: int, micro_batch: int | None
) -> None:
    parts = split(list(range(len(lengths))), lengths, ranks, micro_batch)
    assert sorted(item for rank in parts for micro in rank for item in micro) == list(range(len(lengths)))
    assert len({len(rank) for rank in parts}) == 1
    assert max(len(micro) for rank in parts for micro in rank) <= (micro_batch or len(lengths))


def test_padding_supervises_the_completion_and_its_eos() -> None:
    padded = pad([Tokens(np.array([1, 2, 3, EOS], np.int32), 2), Tokens(np.array([4, EOS], np.int32), 1)])
    assert padded.ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert padded.keep.tolist() == [[False, True, True], [True, False, False]]
    assert padded.targets.tolist() == [3, EOS, EOS]
    assert padded.useful == 4
    assert padded.targets.dtype == torch.int64


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer("plain", train_tokenizer(["abc"], 100, 64))


def test_bad_rows_are_named(tmp_path: Path, renderer: Renderer) -> None:
    path = tmp_path / "data.jsonl"
    cut = Cut(Lengths(8, 4, "drop"))
    write_rows(path, [{"id": "a", "prompt": "x", "completion": "y"}, {"id": "b", "prompt": "x"}])
    with pytest.raises(JobError, match="row 'b' has no text in its field `completion`"):
        read_examples(path, renderer, ("completion",), cut)
    write_rows(path, [{"id": "a", "prompt": "x", "completion": "y" * 20}])
    with pytest.raises(JobError, match=r"nothing to train on: .* dropped as too long"):
        read_examples(path, renderer, ("completion",), cut)
    path.write_text('{"id": "a"\n')
    with pytest.raises(JobError, match=r"data.jsonl:1: not JSON"):
        read_examples(path, renderer, ("completion",), cut)
