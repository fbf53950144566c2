"""Rendering: one renderer, ids apart, EOS once, and text that never becomes a special token."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.chat import Renderer, format_names
from runtime.job import JobError
from runtime.training.tokenizer import train_tokenizer

TEXTS = ["reverse abc -> cba\n", "12 + 34 = 46", "naïve café"]


@pytest.fixture(scope="module")
def characters() -> Any:
    return train_tokenizer(TEXTS, 103, 96)


@pytest.fixture(scope="module")
def pieces() -> Any:
    return train_tokenizer(TEXTS * 20, 300, 96)


def test_formats() -> None:
    assert format_names() == ["chatml", "human_assistant", "plain", "tokenizer"]


def test_human_assistant_text(characters: Any) -> None:
    assert Renderer("human_assistant", characters).prompt_text("Hi") == "Human: Hi\n\nAssistant: "


def test_plain_adds_nothing(characters: Any) -> None:
    renderer = Renderer("plain", characters)
    (ids,) = renderer.prompts(["ab"])
    assert [characters.decode(i) for i in ids] == ["a", "b"]


def test_an_empty_prompt_is_one_start_token(characters: Any) -> None:
    renderer = Renderer("plain", characters)
    assert renderer.prompts([""]) == [[renderer.eos]]


def test_completion_ends_with_one_eos_whatever_it_spells(characters: Any) -> None:
    renderer = Renderer("plain", characters)
    for ids in renderer.completions(["ok", "", "<eos>", "a<eos>b"]):
        assert ids.count(renderer.eos) == 1 and ids[-1] == renderer.eos


@pytest.mark.parametrize(
    "text", ["reverse ab", " two  spaces ", "\n\n\tlines\n", "<eos><pad>", "1 + 2 = 3;", "café"]
)
@pytest.mark.parametrize("kind", ["characters", "pieces"])
def test_decoding_gives_the_text_back(kind: str, text: str, request: pytest.FixtureRequest) -> None:
    renderer = Renderer("plain", request.getfixturevalue(kind))
    assert renderer.decode(renderer.completions([text])[0][:-1]) == text


def test_with_bytes_every_text_survives(pieces: Any) -> None:
    renderer = Renderer("plain", pieces)
    text = "ὕδωρ 水 🜄\x00\u2028"
    assert renderer.decode(renderer.completions([text])[0][:-1]) == text


def test_equal_texts_give_an_equal_tokenizer(pieces: Any) -> None:
    again = train_tokenizer(TEXTS * 20, 300, 96)
    assert again.backend_tokenizer.to_str() == pieces.backend_tokenizer.to_str()


def test_a_vocabulary_too_small_for_the_alphabet_is_refused() -> None:
    with pytest.raises(JobError, match=r"`vocab_size: 99` is too small.*100 are needed"):
        train_tokenizer(["abc"], 99, 96)


def test_special_tokens_of_a_frame_are_read_and_those_of_a_prompt_are_not(characters: Any) -> None:
    characters.chat_template = "<eos>user: {{ messages[0].content }}<eos>assistant: "
    renderer = Renderer("tokenizer", characters)
    (ids,) = renderer.prompts(["say <eos> now"])
    assert ids.count(renderer.eos) == 2
    (plain,) = renderer.prompts(["say it now"])
    assert plain.count(renderer.eos) == 2


def test_unknown_format_and_missing_template_are_refused(pieces: Any) -> None:
    with pytest.raises(JobError, match="no chat format 'alpaca'"):
        Renderer("alpaca", pieces)
    with pytest.raises(JobError, match="no chat template"):
        Renderer("tokenizer", pieces)


def test_golden_tells_formats_and_tokenizers_apart(characters: Any, pieces: Any) -> None:
    goldens = {
        Renderer(name, t).golden() for name in ("plain", "human_assistant") for t in (characters, pieces)
    }
    assert len(goldens) == 4
    assert Renderer("plain", pieces).golden() == Renderer("plain", pieces).golden()
