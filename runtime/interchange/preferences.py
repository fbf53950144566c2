"""Preference pairs as TRL and other trainers take them: text or messages, the prompt apart or in both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.job import JobError
from runtime.sources.pick import text
from runtime.statistics.estimates import win

Message = dict[str, str]
PAIR = ("prompt", "chosen", "rejected")
LABELS = {"user": "Human", "assistant": "Assistant"}  # of the chat format human_assistant
ROLES = {label: role for role, label in LABELS.items()}
TRANSCRIPT = re.compile(r"\n\n(Human|Assistant): ?")


def pair_of(
    record: Mapping[str, Any], where: str, columns: Sequence[str] = PAIR, *, join: bool = False
) -> dict[str, str] | str:
    """{prompt, chosen, rejected} of a record, or in a word why it gives none.

    The form is seen by content: texts; lists of {role, content}, with the prompt apart or as the turns
    before the last of both; two whole transcripts; an entry of AlpacaEval's annotations.json. What has a
    system message or several turns before the answer gives none, unless these are to be joined; a tie
    gives none. columns: the record's names of the three. Raises JobError for anything else.
    """
    prompt, chosen, rejected = columns
    if chosen not in record and "preference" in record and "output_1" in record:
        return _judged(record, where)
    for name in (chosen, rejected):
        if name not in record:
            there = ", ".join(record) or "none at all"
            raise JobError(
                f"{where}: there is no field `{name}`; the fields are {there}: name them in the source"
            )
    texts = isinstance(record[chosen], str) and isinstance(record[rejected], str)
    if texts and isinstance(record.get(prompt), str):
        return {name: text(record[column], column, where) for name, column in zip(PAIR, columns, strict=True)}
    (before, better), (other, worse) = (
        _last(record, name, where, whole=texts and prompt not in record) for name in (chosen, rejected)
    )
    if before != other:
        return "two_prompts"
    if not before:
        asked = record.get(prompt)
        before = [_turn("user", asked)] if isinstance(asked, str) else _turns(asked, prompt, where)
    found = _joined(before) if join else _only(before)
    return "several_turns" if found is None else {"prompt": found, "chosen": better, "rejected": worse}


def _only(turns: Sequence[Message]) -> str | None:
    """The one message of a user; None where there is more."""
    return turns[0]["content"] if [turn["role"] for turn in turns] == ["user"] else None


def _joined(turns: Sequence[Message]) -> str | None:
    """Turns as one text, which the chat format human_assistant puts back into a conversation.

    What the system says stands before the first message. None where others speak, or not in turn.
    """
    system = [turn["content"] for turn in turns if turn["role"] == "system"]
    said = [turn for turn in turns if turn["role"] != "system"]
    in_turn = [("user", "assistant")[i % 2] for i in range(len(said))]
    if len(said) % 2 == 0 or [turn["role"] for turn in said] != in_turn:
        return None
    labelled = (f"{LABELS[turn['role']]}: {turn['content']}" for turn in said[1:])
    return "\n\n".join([*system, said[0]["content"], *labelled])


def _judged(record: Mapping[str, Any], where: str) -> dict[str, str] | str:
    said = record["preference"]
    if said is not None and (isinstance(said, bool) or not isinstance(said, int | float)):
        raise JobError(f"{where}: `preference` must be a number or null, not {said!r}; mend that entry")
    won = win(said)
    if won is None or won == 0.5:
        return "no_verdict" if won is None else "tie"
    better, worse = ("output_2", "output_1") if won > 0.5 else ("output_1", "output_2")
    fields = zip(PAIR, ("instruction", better, worse), strict=True)
    return {name: text(record.get(field), field, where) for name, field in fields}


def _last(
    record: Mapping[str, Any], name: str, where: str, *, whole: bool = False
) -> tuple[list[Message], str]:
    """The turns before the last of a side, and what the assistant says in that. whole: text has them all."""
    value = record[name]
    if whole:
        turns = _transcript(value, name, where)
    else:
        turns = [_turn("assistant", value)] if isinstance(value, str) else _turns(value, name, where)
    if not turns or turns[-1]["role"] != "assistant":
        raise JobError(f"{where}: `{name}` must end in a message of the assistant; mend or remove that row")
    return turns[:-1], turns[-1]["content"]


def _transcript(value: str, name: str, where: str) -> list[Message]:
    """The turns of a text such as `\\n\\nHuman: ...\\n\\nAssistant: ...`."""
    before, *found = TRANSCRIPT.split("\n\n" + value.lstrip("\n"))
    if before or len(found) < 4:
        raise JobError(
            f"{where}: there is no field `prompt`, and `{name}` is no transcript of Human and Assistant; "
            "name the prompt's field in the source, or take it out of both texts"
        )
    told = zip(found[::2], found[1::2], strict=True)
    return [_turn(ROLES[label], text(content, name, where)) for label, content in told]


def _turns(value: Any, name: str, where: str) -> list[Message]:
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise JobError(f"{where}: `{name}` must be text or a list of {{role, content}}; mend it")
    return [_turn(str(turn.get("role")), text(turn.get("content"), "content", where)) for turn in value]


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def as_messages(row: Mapping[str, str]) -> dict[str, list[Message]]:
    """A row in the conversational form: a pair with its prompt apart, or a prompt with its completion."""
    prompt = [_turn("user", row["prompt"])]
    if "chosen" not in row:
        return {"messages": [*prompt, _turn("assistant", row["completion"])]}
    answers = {name: [_turn("assistant", row[name])] for name in ("chosen", "rejected")}
    return {"prompt": prompt, **answers}
