"""Diagnostics: what is wrong with a spec, where, why, and the way out. Codes are stable."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

# AC0xx reading, AC1xx names and shapes, AC2xx axes, AC3xx types and protocol, AC4xx tables,
# AC5xx the world outside, AC6xx warnings
CODES: dict[str, str] = {
    "AC001": "the file cannot be read",
    "AC002": "this is not YAML",
    "AC003": "a key stands twice",
    "AC004": "includes go in a circle",
    "AC005": "included files disagree",
    "AC006": "an override cannot be applied",
    "AC007": "the YAML uses something a spec may not use",
    "AC101": "unknown key",
    "AC102": "a required key is missing",
    "AC103": "a value has the wrong type or range",
    "AC104": "a section has the wrong shape",
    "AC105": "unknown stage kind",
    "AC106": "a name is not allowed",
    "AC107": "a name stands for two things",
    "AC201": "unknown axis",
    "AC202": "an axis value has no such field",
    "AC203": "a malformed `${...}`",
    "AC204": "two different axes share a name",
    "AC205": "a stage has no instances",
    "AC206": "a bad `at`",
    "AC207": "a sweep of something that cannot be swept",
    "AC208": "candidates and scores do not line up",
    "AC209": "nothing to reduce",
    "AC210": "unknown axis value",
    "AC301": "unknown stage or declaration",
    "AC302": "unknown output",
    "AC303": "wrong kind of artifact",
    "AC304": "stages depend on each other in a circle",
    "AC310": "unknown split",
    "AC311": "impossible shares",
    "AC312": "a bad name of a split",
    "AC320": "no chat format",
    "AC321": "settings that contradict each other",
    "AC330": "completions of different prompts",
    "AC331": "nothing to compare with",
    "AC332": "choice on the test set",
    "AC333": "evaluation or choice on training prompts",
    "AC334": "a test on prompts that a choice was made on",
    "AC401": "a table cell has several values",
    "AC402": "unknown row or column in a table",
    "AC403": "published numbers cannot be read",
    "AC404": "a figure that cannot be drawn so",
    "AC501": "a file of the spec is not there",
    "AC502": "unknown cluster profile",
    "AC503": "over budget",
    "AC504": "the cluster profile has no place for a stage",
    "AC601": "a stage that nothing uses",
    "AC602": "a sweep that nothing reduces",
    "AC603": "an axis that no stage mentions",
    "AC604": "another chat format than the model was tuned in",
    "AC605": "a model name that is no snapshot",
}


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a text. Lines and columns count from 1; `end` is the column after the last one.

    `notes` tell how the value came to stand here: 'expanded from', 'overrides', 'included from' ...
    """

    file: str
    line: int
    column: int
    end: int
    notes: tuple[Note, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def on_command_line(self) -> bool:
        return self.file.startswith(COMMAND_LINE)

    def noted(self, word: str, place: Span) -> Span:
        """The same place with one more word on how the value came there."""
        return replace(self, notes=((word, place), *self.notes))


Note = tuple[str, Span]
COMMAND_LINE = "--set "
INCLUDED = "included from"
EXPANDED = "expanded from"


NOWHERE = Span("<spec>", 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `notes` are further places with a word for each, such as 'expanded from'."""

    code: str
    message: str
    span: Span
    hint: str = ""
    notes: tuple[Note, ...] = ()
    severity: Literal["error", "warning"] = "error"

    @property
    def related(self) -> list[Note]:
        """Every further place, each once: how the value came to its place, then the notes and theirs."""
        found: dict[Note, None] = {}

        def add(notes: Iterable[Note]) -> None:
            for note in notes:
                if note not in found:
                    found[note] = None
                    add(note[1].notes)

        add(self.span.notes)
        add(self.notes)
        return list(found)


class SpecError(Exception):
    """A spec that cannot be compiled; carries every finding, and the texts to show excerpts of."""

    def __init__(self, diagnostics: Sequence[Diagnostic], texts: Mapping[str, str]) -> None:
        self.diagnostics = tuple(in_file_order(diagnostics))
        self.texts = dict(texts)
        super().__init__("\n".join(render(d, self.texts) for d in self.diagnostics))


class UsageError(Exception):
    """A user's mistake outside the spec's text; told without a traceback."""


def near(word: str, known: Iterable[object]) -> str:
    """A hint that names the nearest known word, or lists what there is."""
    words = [str(k) for k in known]
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if found:
        return f"did you mean `{found[0]}`?"
    if not words:
        return "there are none"
    shown = ", ".join(words[:12]) + (" ..." if len(words) > 12 else "")
    return f"known: {shown}"


def in_file_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Without repetitions (one cause may show in many instances), sorted by place."""
    unique = {(d.code, d.span, d.message): d for d in diagnostics}
    return sorted(unique.values(), key=lambda d: (d.span.file, d.span.line, d.span.column, d.code))


WIDTH = 160  # columns of a line that an excerpt shows
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # where YAML counts a new line


def _printable(text: str) -> str:
    """One line that shows what a terminal would not: line breaks and control characters, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _excerpt(span: Span, line: str | None) -> list[str]:
    """The line with a caret below; of a long line the part around the place."""
    if not line or line.isspace():
        return []
    first = max(0, span.column - WIDTH // 2) if span.end > WIDTH else 0
    shown = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line[first : first + WIDTH])
    at = span.column - 1 - first
    width = max(1, min(span.end - span.column, len(shown) - at))
    number = f"{span.line:>5} | "
    padding = "".join("\t" if c == "\t" else " " for c in shown[:at])
    return [number + shown, " " * (len(number) - 2) + "| " + padding + "^" * width]


def render(diagnostic: Diagnostic, texts: Mapping[str, str]) -> str:
    """A finding as text: place, code, message, excerpt with a caret, notes and way out."""

    def line_of(span: Span) -> str | None:
        lines = _BREAK.split(texts.get(span.file, ""))
        return lines[span.line - 1] if 0 < span.line <= len(lines) else None

    d = diagnostic
    first = _printable(f"{d.span}: {d.severity} {d.code}: {d.message}")
    out = [first, *_excerpt(d.span, line_of(d.span))]
    for word, span in d.related:
        out.append(_printable(f"      {word} {span}"))
        if word != INCLUDED:
            out += _excerpt(span, line_of(span))
    if d.hint:
        out.append(f"      = {_printable(d.hint)}")
    return "\n".join(out)
