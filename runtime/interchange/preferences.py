"""Preference pairs as TRL and other trainers take them: text or messages, the prompt apart or in both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.job import JobError
from runtime.sources.pick import text
from runtime.statistics.estimates import win

Message = dict[str, str]
PAIR = ("prompt", "chosen", "rejected")


def pair_of(record: Mapping[str, Any], where: str) -> dict[str, str] | str:
    """{prompt, chosen, rejected} of a record, or in a word why it gives none.

    The form is seen by content: texts; lists of {role, content}, with the prompt apart or as the turns
    before the last of both; an entry of AlpacaEval's annotations.json. What has a system message or
    several turns before the answer gives none, nor has a tie. Raises JobError for anything else.
    """
    if "preference" in record and "output_1" in record:
        return _judged(record, where)
    for name in ("chosen", "rejected"):
        if name not in record:
            there = ", ".join(record) or "none at all"
            raise JobError(f"{where}: there is no field `{name}`; the fields are {there}")
    if isinstance(record["chosen"], str) and isinstance(record["rejected"], str):
        if "prompt" not in record:
            raise JobError(
                f"{where}: there is no field `prompt`; take it out of the texts of `chosen` and `rejected`"
            )
        if isinstance(record["prompt"], str):
            return {name: text(record[name], name, where) for name in PAIR}
    before, chosen = _last(record, "chosen", where)
    other, rejected = _last(record, "rejected", where)
    if before != other:
        return "two_prompts"
    prompt = record.get("prompt")
    if not before:
        before = [_turn("user", prompt)] if isinstance(prompt, str) else _turns(prompt, "prompt", where)
    if [message["role"] for message in before] != ["user"]:
        return "several_turns"
    return {"prompt": before[0]["content"], "chosen": chosen, "rejected": rejected}


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


def _last(record: Mapping[str, Any], name: str, where: str) -> tuple[list[Message], str]:
    """The turns before the last of a side, and what the assistant says in that."""
    value = record[name]
    turns = [_turn("assistant", value)] if isinstance(value, str) else _turns(value, name, where)
    if not turns or turns[-1]["role"] != "assistant":
        raise JobError(f"{where}: `{name}` must end in a message of the assistant; mend or remove that row")
    return turns[:-1], turns[-1]["content"]


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
