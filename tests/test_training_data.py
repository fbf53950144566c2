"""Tokens, truncation, order, and the parts of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.chat import Renderer
from runtime.files import write_rows
from runtime.job import JobError
from runtime.training.batches import lay_out
from runtime.training.data import (
    Cut,
    Lengths,
    Tokens,
    bins,
    order,
    read_examples,
    split,
    steps_per_epoch,
)
from runtime.training.tokenizer import train_tokenizer

EOS = 99


@pytest.mark.parametrize(
    ("policy", "expected", "counts"),
    [
        # whole <= 6, prompt <= 2; the prompt is 1 2 3 4, the completion 5 6 EOS, 5 6 7 8 9 EOS
        ("drop", [None, None], {"dropped": 2, "kept": 0, "cut": 0, "prompts_cut": 0, "completions_cut": 0}),
        (
            "keep_start",
            [[1, 2, 5, 6, EOS], [1, 2, 5, 6, 7, 8]],
            {"dropped": 0, "kept": 2, "cut": 2, "prompts_cut": 2, "completions_cut": 1},
        ),
        (
            "keep_end",
            [[3, 4, 5, 6, EOS], [3, 4, 5, 6, 7, 8]],
            {"dropped": 0, "kept": 2, "cut": 2, "prompts_cut": 2, "completions_cut": 1},
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
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(1, 5),
    st.none() | st.integers(1, 7),
    st.none() | st.integers(1, 99),
    st.booleans(),
)
def test_any_split_has_each_item_once_and_equal_numbers_of_parts(
    lengths: list[int], ranks: int, micro_batch: int | None, micro_tokens: int | None, padded: bool
) -> None:
    parts = split(list(range(len(lengths))), lengths, ranks, micro_batch, micro_tokens, padded=padded)
    micros = [micro for rank in parts for micro in rank]
    assert sorted(item for micro in micros for item in micro) == list(range(len(lengths)))
    assert len({len(rank) for rank in parts}) == 1
    assert max(map(len, micros)) <= (micro_batch or len(lengths))
    if micro_tokens is not None:
        assert all(len(m) == 1 or sum(lengths[i] for i in m) <= micro_tokens for m in micros if m)


def test_parts_are_of_like_size() -> None:
    assert split([0, 1, 2, 3, 4], [90, 10, 20, 30, 30], 2) == [[[0]], [[4, 3, 2, 1]]]
    assert split([0, 1, 2, 3], [9, 1, 2, 8], 1, micro_tokens=10) == [[[0, 1], [3, 2]]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(20, 60))
def test_bins_hold_each_item_once_and_no_two_of_them_would_fit_into_one(
    lengths: list[int], room: int
) -> None:
    found = bins(lengths, room)
    assert sorted(item for one in found for item in one) == list(range(len(lengths)))
    loads = [sum(lengths[item] for item in one) for one in found]
    assert all(load <= room or len(one) == 1 for load, one in zip(loads, found, strict=True))
    assert len(loads) < 2 or sum(sorted(loads)[:2]) > room


ONE, TWO = Tokens(np.array([1, 2, 3, EOS], np.int32), 2), Tokens(np.array([4, EOS], np.int32), 1)


def test_padding_supervises_the_completion_and_its_eos() -> None:
    batch = lay_out([ONE, TWO], padded=True)
    assert batch.ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.picks.tolist() == [1, 2, 3]
    assert batch.targets.tolist() == [3, EOS, EOS]
    assert batch.spans.tolist() == [[True, True], [True, False]]
    assert batch.real == 4


def test_sequences_end_to_end_have_no_filler() -> None:
    batch = lay_out([ONE, TWO])
    assert batch.ids.tolist() == [[1, 2, 3, 4]]
    assert batch.positions is not None and batch.positions.tolist() == [[0, 1, 2, 0]]
    assert batch.picks.tolist() == [1, 2, 3]
    assert batch.targets.tolist() == [3, EOS, EOS]
    assert batch.layout is not None and batch.layout.shapes == ((2, 3),)
    assert batch.layout.rows.tolist() == [0, 1, 2, 3, 0, 0]
    assert batch.layout.places.tolist() == [0, 1, 2, 3]


def test_two_completions_share_their_prompt() -> None:
    batch = lay_out([ONE, Tokens(np.array([1, 2, 7, 8, EOS], np.int32), 2)], pairs=True)
    assert batch.ids.tolist() == [[1, 2, 3, 7, 8]]
    assert batch.positions is not None and batch.positions.tolist() == [[0, 1, 2, 2, 3]]
    assert batch.picks.tolist() == [1, 2, 1, 3, 4]  # the prompt's last token foretells both
    assert batch.targets.tolist() == [3, EOS, 7, 8, EOS]
    assert batch.layout is not None and batch.layout.shapes == ((2, 4),)
    assert batch.layout.rows.tolist() == [0, 1, 3, 4, 0, 1, 2, 0]
    assert (batch.layout.shared.tolist(), batch.layout.again.tolist()) == ([0, 1], [0, 1])


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
