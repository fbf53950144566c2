"""Trains the small, lossless tokenizer of a model that starts from random weights."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any

from runtime.job import JobError

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
SPECIAL = (PAD, EOS, UNKNOWN)
ALPHABET = frozenset(string.ascii_letters + string.digits + string.punctuation + " \n\t")

# With room for all 256 bytes no text is unknown; below, the alphabet is the characters of the data.
_BYTES_FROM = 256 + len(SPECIAL)

# Merges stay within a word, a digit stands alone (arithmetic), and no character is lost.
_PIECES = r"\p{L}+|\p{N}|\s|[^\s\p{L}\p{N}]+"


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_positions: int) -> Any:
    """A byte-pair tokenizer of at most `vocab_size` tokens; equal texts give an equal tokenizer.

    With 259 tokens or more its smallest pieces are bytes, and every text survives encoding; with
    fewer they are the characters of `texts` and printable ASCII, and others become `<unk>`.
    Raises JobError where `vocab_size` has no room for that alphabet.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = list(texts)
    whole = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    if vocab_size >= _BYTES_FROM:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [whole, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
    else:
        alphabet = _alphabet(texts, vocab_size)
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = whole
        tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer, max_positions)


def _alphabet(texts: list[str], vocab_size: int) -> list[str]:
    alphabet = sorted(ALPHABET.union(*texts))
    if len(alphabet) + len(SPECIAL) > vocab_size:
        raise JobError(
            f"`vocab_size: {vocab_size}` is too small: the data and printable ASCII have {len(alphabet)} "
            f"characters, so {len(alphabet) + len(SPECIAL)} are needed (or {_BYTES_FROM}, for bytes)"
        )
    return alphabet


def _wrap(tokenizer: Any, max_positions: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )
