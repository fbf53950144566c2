"""A few completions side by side with their verdicts, so that a reader sees what was scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.files import digest_text, read_rows
from runtime.job import Blocked, follow
from runtime.results.jobs import Job, one_line
from runtime.results.table import Cell, Column, Comparison, Member, Row, Table
from runtime.store import Store

MAX_TEXT = 900
VERDICTS = "verdicts.jsonl"
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """A text, shortened for the page; `of` is its whole length where it was cut."""

    text: str
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Side:
    label: str
    completion: Text
    verdicts: tuple[tuple[str, str], ...] = ()  # (good | bad | even | none, words)
    replies: tuple[str, ...] = ()  # what the judge wrote, each in one line


@dataclass(frozen=True, slots=True)
class Sample:
    place: str
    prompt_id: str
    prompt: Text
    answer: str
    sides: tuple[Side, ...]


def _cut(text: object) -> Text:
    whole = "" if text is None else str(text)
    return Text(whole) if len(whole) <= MAX_TEXT else Text(whole[:MAX_TEXT] + "…", len(whole))


@dataclass(slots=True)
class Evaluation:
    """What stands behind one member, by prompt."""

    items: Mapping[str, Record]
    completions: Mapping[str, Record]
    reference: Mapping[str, Record]
    judged: Mapping[str, Record]

    def verdicts(self, prompt: str) -> tuple[tuple[str, str], ...]:
        """(good | bad | even | none, words) for each thing that is known of a completion."""
        item, verdict = self.items.get(prompt, {}), self.judged.get(prompt, {})
        told = []
        if item.get("win") is not None or verdict:
            kind, words = _win(item.get("win"))
            reason = verdict.get("reason")
            told.append((kind, f"{words}: {one_line(reason, 60)}" if reason else words))
        if item.get("correct") is not None:
            told.append(("good", "correct") if item["correct"] >= 1 else ("bad", "not correct"))
        return tuple(told)

    def replies(self, prompt: str) -> tuple[str, ...]:
        """What the judge wrote, with the order in which it saw the two answers."""
        row = self.judged.get(prompt, {})
        said = zip(row.get("replies") or (), row.get("shown") or (), strict=False)
        judge = row.get("judge") or "Judge"
        return tuple(
            f"{judge}, {'reference' if shown == 'ab' else 'this answer'} shown first: {one_line(reply, 120)}"
            for reply, shown in said
            if reply is not None
        )


def _win(win: float | None) -> tuple[str, str]:
    if win is None:
        return "none", "no verdict"
    if win == 0.5:
        return "even", "draw with the reference"
    return ("good", "preferred to the reference") if win > 0.5 else ("bad", "reference preferred")


@dataclass(slots=True)
class Library:
    """Evaluations by key and data files by path, each read once."""

    store: Store
    jobs: Mapping[str, Job]
    _evaluations: dict[str, Evaluation | None] = field(default_factory=dict)
    _files: dict[Path, Mapping[str, Record]] = field(default_factory=dict)

    def evaluation(self, member: Member) -> Evaluation | None:
        """None where it cannot be shown: not done, or its completions are no longer in the store."""
        if member.key not in self._evaluations:
            try:
                self._evaluations[member.key] = self._open(member)
            except (OSError, ValueError, KeyError, TypeError, Blocked):
                self._evaluations[member.key] = None
        return self._evaluations[member.key]

    def _open(self, member: Member) -> Evaluation | None:
        inputs = self.jobs[member.node].manifest.get("inputs", {})
        if not inputs.get("completions"):
            return None
        folder = self.store.artifact(member.kind, member.key)
        against = inputs.get("reference") or inputs.get("prompts")
        return Evaluation(
            items=self._rows(folder / "items.jsonl"),
            completions=self._input(inputs["completions"][0]),
            reference=self._input(against[0]) if against else {},
            judged=self._rows(folder / VERDICTS) if (folder / VERDICTS).exists() else {},
        )

    def _rows(self, path: Path) -> Mapping[str, Record]:
        if path not in self._files:
            self._files[path] = {str(row["id"]): row for row in read_rows(path)}
        return self._files[path]

    def _input(self, record: Record) -> Mapping[str, Record]:
        kind, key, path = record["kind"], record["key"], record["path"]
        kind, key, path = follow(self.store, kind, key, path)
        return self._rows(self.store.artifact(kind, key) / path)


def _by_digest(prompts: Iterable[str]) -> list[str]:
    """An order that nobody chose and that is the same everywhere."""
    return sorted(prompts, key=digest_text)


def _score(item: Record) -> float | None:
    value = item.get("win") if item.get("win") is not None else item.get("correct")
    return None if value is None else float(value)


def _one_of_each(prompts: Iterable[str], outcome: Callable[[str], object]) -> list[str]:
    """For each outcome the first prompt that had it."""
    found: dict[object, str] = {}
    for prompt in _by_digest(prompts):
        found.setdefault(outcome(prompt), prompt)
    return list(found.values())


def _sign(a: float | None, b: float | None) -> int | None:
    return None if a is None or b is None else (a > b) - (a < b)


def _side(label: str, evaluation: Evaluation, prompt: str) -> Side:
    completion = evaluation.completions[prompt].get("completion")
    return Side(label, _cut(completion), evaluation.verdicts(prompt), evaluation.replies(prompt))


def _sample(place: str, prompt: str, row: Record, sides: Sequence[Side]) -> Sample:
    return Sample(place, prompt, _cut(row.get("prompt")), one_line(row.get("answer") or ""), tuple(sides))


def _of_comparison(comparison: Comparison, library: Library) -> Iterator[Sample]:
    """Prompts on which a was better, b was better, and both did alike."""
    if comparison.missing:
        return
    a, b = library.evaluation(comparison.a[0]), library.evaluation(comparison.b[0])
    if a is None or b is None:
        return
    common = a.completions.keys() & b.completions.keys() & a.items.keys() & b.items.keys()
    place = comparison.row or comparison.column
    for prompt in _one_of_each(common, lambda p: _sign(_score(a.items[p]), _score(b.items[p]))):
        sides = [_side(comparison.a_label, a, prompt), _side(comparison.b_label, b, prompt)]
        yield _sample(place, prompt, a.completions[prompt], sides)


def _of_cell(row: Row, column: Column, cell: Cell, library: Library) -> Iterator[Sample]:
    """Prompts won, lost and drawn against the reference, where there is one."""
    evaluation = library.evaluation(cell.members[0]) if cell.value is not None else None
    if evaluation is None:
        return
    for prompt in _one_of_each(
        evaluation.completions.keys() & evaluation.items.keys(), lambda p: _score(evaluation.items[p])
    ):
        sides = [_side(f"{row.label} / {column.label}", evaluation, prompt)]
        reference = evaluation.reference.get(prompt, {}).get("completion")
        if reference is not None:
            sides.append(Side("reference", _cut(reference)))
        yield _sample("", prompt, evaluation.completions[prompt], sides)


def _found(table: Table, library: Library) -> Iterator[Sample]:
    # Comparisons of the same two evaluations by another metric would show the same texts again.
    different = {tuple(m.key for m in (*c.a, *c.b)): c for c in reversed(table.comparisons)}
    for comparison in reversed(different.values()):
        yield from _of_comparison(comparison, library)
    if table.comparisons:
        return
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            yield from _of_cell(row, column, cell, library)


def samples(store: Store, jobs: Mapping[str, Job], tables: Iterable[Table], most: int) -> list[Sample]:
    """At most `most` samples, those of the first table that has any."""
    library = Library(store, jobs)
    for table in tables:
        found: list[Sample] = []
        for sample in _found(table, library):
            if len(found) == most:
                return found
            found.append(sample)
        if found:
            return found
    return []
