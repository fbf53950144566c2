"""Turns prompts and completions into token ids: the one renderer of training, sampling and judging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runtime.files import canonical, digest_text
from runtime.job import JobError
from runtime.known import TOKENIZER, format_names
from runtime.templates import fill

# What `golden` renders: letter case, digits, punctuation, line breaks and repeated spaces.
_PROBE = ("What is 12 + 34?\n\nSay it  in words, please.", "Forty-six (46).\n")
_MARK = "\ue000"  # stands for the prompt where it must be cut out of its frame; a private-use character


@dataclass(frozen=True)
class Renderer:
    """A chat format with a tokenizer.

    Prompt and completion are tokenised apart and their ids concatenated, so that no token spans the
    border and training sees exactly the prompt ids that sampling starts from. The end-of-sequence
    token is an id, never text. Text of a data set never becomes a special token.

    name: one of `format_names`. tokenizer: a fast Hugging Face tokenizer with an EOS token.
    Raises JobError for an unknown format and for a tokenizer that cannot serve it.
    """

    name: str
    tokenizer: Any

    def __post_init__(self) -> None:
        if self.name not in format_names():
            raise JobError(f"there is no chat format {self.name!r}; there are {', '.join(format_names())}")
        if self.tokenizer.eos_token_id is None:
            raise JobError("the tokenizer has no end-of-sequence token, so no completion could ever end")
        if self.name == TOKENIZER and not self.tokenizer.chat_template:
            raise JobError("the tokenizer has no chat template of its own; choose another chat format")

    @property
    def eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def start(self) -> int:
        """The id that stands before an empty prompt, so that the first token has something to follow."""
        first = self.tokenizer.bos_token_id
        return self.eos if first is None else int(first)

    @cached_property
    def _special(self) -> tuple[str, ...]:
        return tuple(token for token in self.tokenizer.all_special_tokens if token)

    @cached_property
    def _framed(self) -> bool:
        """Whether special tokens written in the format itself must be read as such."""
        return self.name == TOKENIZER or any(token in self.prompt_text("") for token in self._special)

    def prompt_text(self, prompt: str) -> str:
        """The text in front of the completion."""
        if self.name != TOKENIZER:
            return fill(f"chat/{self.name}.j2", prompt=prompt)
        turns = [{"role": "user", "content": prompt}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids in front of the completion, for each prompt; never empty."""
        texts = [self.prompt_text(prompt) for prompt in prompts]
        ids = self._encode(texts, framed=self._framed)
        if self._framed:
            for i, prompt in enumerate(prompts):
                if any(token in prompt for token in self._special):
                    ids[i] = self._encode_apart(prompt)
        return [found or [self.start] for found in ids]

    def completions(self, completions: Sequence[str]) -> list[list[int]]:
        """Ids of each completion, the end-of-sequence token last."""
        return [[*ids, self.eos] for ids in self._encode(completions, framed=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of completion ids; special tokens are left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def probe(self) -> list[int]:
        """Ids of a fixed exchange, to compare tokenizers and models with."""
        prompt, completion = _PROBE
        return [*self.prompts([prompt])[0], *self.completions([completion])[0]]

    def golden(self) -> str:
        """Hash of the rendered probe: equal where format and tokenizer render alike."""
        return digest_text(canonical({"text": self.prompt_text(_PROBE[0]), "ids": self.probe()}))

    def _encode(self, texts: Sequence[str], *, framed: bool) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=not framed)
        return [list(ids) for ids in encoded["input_ids"]]

    def _encode_apart(self, prompt: str) -> list[int]:
        """Ids of a prompt that spells a special token, which must stay plain text within the frame."""
        head, _, tail = self.prompt_text(_MARK).partition(_MARK)
        before, after = self._encode([head, tail], framed=True)
        return [*before, *self._encode([prompt], framed=False)[0], *after]
