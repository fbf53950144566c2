"""Picks prompt, completion and answer out of a record, by the field names a source declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from runtime.job import JobError
from runtime.sources import Row


class Names(Protocol):
    """Field names of a declared source."""

    @property
    def prompt(self) -> str: ...
    @property
    def completion(self) -> str | None: ...
    @property
    def messages(self) -> str | None: ...
    @property
    def answer(self) -> str | None: ...


def pick(record: Mapping[str, Any], names: Names, where: str) -> Row:
    """The row of a record. An absent completion, written as null, is empty: `only_full` drops it."""
    row: Row = {}
    if names.messages:
        row["prompt"], row["completion"] = _first_turns(_field(record, names.messages, where), where)
    else:
        row["prompt"] = text(_field(record, names.prompt, where), names.prompt, where)
    if names.completion:
        value = _field(record, names.completion, where)
        row["completion"] = "" if value is None else text(value, names.completion, where)
    if names.answer:
        row["answer"] = _answer(_field(record, names.answer, where), names.answer, where)
    return row


def text(value: Any, name: str, where: str) -> str:
    """A field's value, which must be text that UTF-8 can hold. Raises JobError."""
    if not isinstance(value, str):
        wrong = type(value).__name__
        raise JobError(f"{where}: `{name}` must be text, not {wrong}; mend it or name another field")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise JobError(f"{where}: `{name}` holds half a character (a lone surrogate); mend it") from error
    return value


def _field(record: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in record:
        there = ", ".join(record) or "none at all"
        raise JobError(f"{where}: there is no field `{name}`; the fields are {there}: name one in the source")
    return record[name]


def _answer(value: Any, name: str, where: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text(value, name, where)


def _first_turns(messages: Any, where: str) -> tuple[str, str]:
    """The first user turn and the first assistant turn after it; empty where there is none."""
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise JobError(f"{where}: messages must be a list of {{role, content}}; mend it or name another")
    wanted, found = ["user", "assistant"], ["", ""]
    stage = 0
    for message in messages:
        if stage < 2 and message.get("role") == wanted[stage]:
            found[stage] = text(message.get("content"), "content", where)
            stage += 1
    return found[0], found[1]
