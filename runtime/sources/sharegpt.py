"""ShareGPT's JSON: the first human -> gpt exchange of each conversation.

As the lineage reads it: conversations that gpt begins are left out, and so is any that contains a
special token of a model's vocabulary anywhere, which a tokenizer would take for the token itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from runtime.declare import ShareGptSource
from runtime.job import JobError
from runtime.sources import Row
from runtime.sources.hub import local_file
from runtime.sources.pick import text
from runtime.sources.records import Record, array_or_lines

SPECIAL = ("<s>", "</s>", "<|endoftext|>")
HUMAN = ("human", "user")
GPT = ("gpt", "chatgpt")

Turn = tuple[str, str]  # who, what


def rows(declared: ShareGptSource, dropped: Counter[str]) -> Iterator[Row]:
    for where, record in array_or_lines(local_file(declared)):
        turns = _turns(record, where)
        reason = _fault(turns)
        if reason:
            dropped[reason] += 1
        else:
            yield {"prompt": turns[0][1], "completion": turns[1][1]}


def _turns(record: Record, where: str) -> list[Turn]:
    """The turns of a conversation, without those of the system."""
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise JobError(f"{where}: there is no list `conversations`; is this ShareGPT's JSON?")
    return [turn for turn in (_turn(t, where) for t in turns) if turn[0] != "system"]


def _turn(turn: Any, where: str) -> Turn:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise JobError(f"{where}: a turn must be {{from, value}}; mend or remove that conversation")
    return text(turn["from"], "from", where), text(turn["value"], "value", where)


def _fault(turns: list[Turn]) -> str:
    """Why a conversation is left out; empty where it is not."""
    if any(token in said for _, said in turns for token in SPECIAL):
        return "special_token"
    if turns and turns[0][0] in GPT:
        return "begun_by_gpt"
    if len(turns) < 2 or turns[0][0] not in HUMAN or turns[1][0] not in GPT:
        return "no_exchange"
    return ""
