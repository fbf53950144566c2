"""Spec text -> one located tree: YAML with places, includes merged, `--set` applied.

Scalars follow YAML 1.2 (`1e-5` is a number, `no` a string), as editors read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from yamlcore import CCoreLoader

from compiler.errors import COMMAND_LINE, EXPANDED, INCLUDED, NOWHERE, Diagnostic, Note, Span, SpecError, near

Scalar = str | int | float | bool | None
MAX_NODES = 250_000
MAX_FILES = 1_000
MERGE = "<<"
NAME = re.compile(r"[A-Za-z_][\w-]*\Z")
# Sections whose entries included files may share, and which merge entry by entry.
SECTIONS = ("axes", "models", "llms", "wordings", "sources", "presets", "stages", "tables", "claims")


@dataclass(frozen=True, slots=True)
class Located:
    """A YAML value with its place, and that of its key where it has one.

    `choices`: of an axis whose records were chosen from by a list, all that there were to choose from.
    """

    value: Scalar | tuple[Located, ...] | dict[str, Located]
    span: Span
    key: Span | None = None
    choices: dict[str, Located] | None = None

    @property
    def items(self) -> dict[str, Located]:
        """Entries of a mapping; none for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def elements(self) -> tuple[Located, ...]:
        return self.value if isinstance(self.value, tuple) else ()

    @property
    def origin(self) -> Span | None:
        """Where an axis gave the value; None where it is as written."""
        return next((place for word, place in self.span.notes if word == EXPANDED), None)

    @property
    def place(self) -> Span:
        return self.key or self.span

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items()}
        if isinstance(self.value, tuple):
            return [v.plain() for v in self.value]
        return self.value

    def scalars(self) -> Iterator[Located]:
        """Every scalar below, in order."""
        if isinstance(self.value, dict):
            for child in self.value.values():
                yield from child.scalars()
        elif isinstance(self.value, tuple):
            for child in self.value:
                yield from child.scalars()
        else:
            yield self

    def find(self, path: Sequence[str | int]) -> tuple[Located, int]:
        """The deepest value along a path, and how many steps of it were there."""
        here = self
        for depth, step in enumerate(path):
            if isinstance(here.value, dict) and step in here.value:
                here = here.value[str(step)]
            elif isinstance(here.value, tuple) and isinstance(step, int) and step < len(here.value):
                here = here.value[step]
            else:
                return here, depth
        return here, len(path)


def noted(tree: Located, word: str, place: Span) -> Located:
    """The tree with a note at every place in it."""
    value = tree.value
    if isinstance(value, dict):
        value = {k: noted(v, word, place) for k, v in value.items()}
    elif isinstance(value, tuple):
        value = tuple(noted(v, word, place) for v in value)
    key = tree.key.noted(word, place) if tree.key else None
    return Located(value, tree.span.noted(word, place), key)


def made(value: Any, like: Located) -> Located:
    """Plain data as a located tree, all of it at the place of `like`."""
    if isinstance(value, Located):
        return value
    if isinstance(value, Mapping):
        return replace(like, value={str(k): made(v, like) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return replace(like, value=tuple(made(v, like) for v in value))
    return replace(like, value=value)


@dataclass
class _Reader:
    """Turns one YAML text into a located tree, and collects what is wrong with it."""

    file: str
    text: str
    notes: tuple[Note, ...] = ()
    problems: list[Diagnostic] = field(default_factory=list)
    count: int = 0
    open: set[int] = field(default_factory=set)

    def read(self) -> Located | None:
        try:
            loader = CCoreLoader(self.text)
            node = loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            self.problems.append(self._not_yaml(error))
            return None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.problems.append(Diagnostic("AC002", str(error).splitlines()[0], self._start()))
            return None
        if node is None:
            return Located({}, self._start())
        return self._convert(node, loader, None, 0)

    def _not_yaml(self, error: yaml.MarkedYAMLError) -> Diagnostic:
        mark, context = error.problem_mark or error.context_mark, error.context_mark
        words = ": ".join(w for w in (error.context, error.problem) if w) or "not YAML"
        if mark is None:
            return Diagnostic("AC002", words, self._start())
        notes = (("it begins at", self._at(context)),) if context and context.line != mark.line else ()
        lines = self.text.splitlines()
        line = lines[mark.line] if mark.line < len(lines) else ""
        return Diagnostic("AC002", words, self._at(mark), _likely(words, line, mark.column), notes)

    def _at(self, mark: Any) -> Span:
        return Span(self.file, mark.line + 1, mark.column + 1, mark.column + 2, self.notes)

    def _start(self) -> Span:
        return Span(self.file, 1, 1, 2, self.notes)

    def _span(self, node: Any) -> Span:
        start, end = node.start_mark, node.end_mark
        stop = end.column + 1 if end.line == start.line else start.column + 2
        return Span(self.file, start.line + 1, start.column + 1, max(stop, start.column + 2), self.notes)

    def _convert(self, node: Any, loader: Any, key: Span | None, depth: int) -> Located:
        span = self._span(node)
        self.count += 1
        if self.count > MAX_NODES or depth > 60 or id(node) in self.open:
            if not any(p.code == "AC007" for p in self.problems):
                self.problems.append(
                    Diagnostic("AC007", "the text unfolds to too much (aliases of aliases?)", span)
                )
            return Located(None, span, key)
        if isinstance(node, yaml.ScalarNode):
            return Located(self._scalar(node, loader, span), span, key)
        self.open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            value: Any = tuple(self._convert(child, loader, None, depth + 1) for child in node.value)
        else:
            value = self._mapping(node, loader, depth)
        self.open.discard(id(node))
        return Located(value, span, key)

    def _scalar(self, node: Any, loader: Any, span: Span) -> Scalar:
        try:
            value = loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            text = str(error).splitlines()[0]
            self.problems.append(Diagnostic("AC007", f"a value that a spec may not hold: {text}", span))
            return None
        return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)

    def _mapping(self, node: Any, loader: Any, depth: int) -> dict[str, Located]:
        entries: dict[str, Located] = {}
        merged: dict[str, Located] = {}
        for key_node, value_node in node.value:
            span = self._span(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Diagnostic("AC007", "a key must be a plain word", span))
                continue
            name = str(key_node.value)
            if name == MERGE and not key_node.style:  # in quotes it is a name like any other
                merged = self._merged(value_node, loader, span, depth) | merged
                continue
            if name in entries:
                note = (("first stands at", entries[name].place),)
                self.problems.append(Diagnostic("AC003", f"the key `{name}` stands twice", span, notes=note))
                continue
            entries[name] = self._convert(value_node, loader, span, depth + 1)
        return {**merged, **entries}

    def _merged(self, node: Any, loader: Any, at: Span, depth: int) -> dict[str, Located]:
        """What a key `<<` brings in from a mapping, or from a list of them: the first to name a key wins."""
        found: dict[str, Located] = {}
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            tree = self._convert(part, loader, None, depth + 1)
            if not isinstance(tree.value, dict):
                self.problems.append(
                    Diagnostic("AC007", "`<<` takes a mapping (`*anchor`), or a list of them", at)
                )
            for name, value in tree.items.items():
                found.setdefault(name, noted(value, "merged at", at))
        return found


def _likely(words: str, line: str, column: int) -> str:
    """What most likely is wrong with a line that is not YAML."""
    if "\t" in line[: column + 1]:
        return "indent with spaces; YAML takes no tabs there"
    if "${" in line[: column + 1] and "flow" in words:
        return 'inside `{...}` and `[...]` put it in quotes: `"${axis}"`'
    if "mapping values" in words:
        return "put a text that holds `: ` in quotes; or a key above lacks its `:`"
    if "alias" in words or line[column : column + 1] in {"%", "@", "`"}:
        return "put a text that begins with `*`, `&`, `%`, `@` or a backquote in quotes"
    if "did not find expected key" in words:
        return "indent the keys of one mapping alike, and close quotes and brackets"
    return ""


def parse(text: str, file: str, asked: Span | None = None) -> tuple[Located | None, list[Diagnostic]]:
    """One YAML text as a located tree, with every problem found in it. `asked`: the `include` of it."""
    reader = _Reader(file, text, ((INCLUDED, asked),) if asked else ())
    return reader.read(), reader.problems


def merge(under: Located, over: Located, problems: list[Diagnostic], path: tuple[str, ...] = ()) -> Located:
    """`over` on top of `under`: mappings merge deeply, anything else is replaced.

    A list of names over an axis of records chooses from the records, in the list's order.
    """
    if len(path) == 2 and path[0] == "axes" and _names_only(over) and isinstance(under.value, dict):
        return _chosen(under, over, problems, path[1])
    if not (isinstance(under.value, dict) and isinstance(over.value, dict)):
        return noted(over, "overrides", under.span)
    entries = dict(under.value)
    for name, value in over.value.items():
        entries[name] = merge(entries[name], value, problems, (*path, name)) if name in entries else value
    if over.span.on_command_line:  # it reaches through the mapping for one value in it
        return replace(under, value=entries)
    key = over.key.noted("extends", under.place) if over.key and len(path) > 1 else over.key
    return replace(over, value=entries, key=key)


def _names_only(tree: Located) -> bool:
    return bool(tree.elements) and not any(isinstance(e.value, (dict, tuple)) for e in tree.elements)


def _chosen(under: Located, over: Located, problems: list[Diagnostic], axis: str) -> Located:
    """The records of an axis that a list names, in its order; all of them where it names none."""
    entries: dict[str, Located] = {}
    choices = under.choices or under.items  # a choice by an included file binds no one
    for element in over.elements:
        name = str(element.value)
        if name in choices:
            entries[name] = choices[name]
        else:
            message, note = f"axis `{axis}` has no value `{name}`", ("its values are at", under.place)
            problems.append(Diagnostic("AC210", message, element.span, near(name, choices), (note,)))
    return replace(over, value=entries or under.value, choices=choices)


@dataclass(frozen=True, slots=True)
class Source:
    """A whole spec as read: the merged tree, and the texts it came from (for excerpts)."""

    path: str
    tree: Located
    texts: dict[str, str]


@dataclass
class _Loader:
    """Follows includes; every problem is kept, so that all are told at once."""

    read_text: Callable[[str], str]
    problems: list[Diagnostic] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    files: int = 0

    def load(self, path: str, chain: tuple[str, ...], asked: Span | None) -> Located | None:
        where = asked or Span(path, 1, 1, 2)
        if path in chain:
            self.problems.append(
                Diagnostic("AC004", f"{path} includes itself: {' -> '.join((*chain, path))}", where)
            )
            return None
        self.files += 1
        if self.files > MAX_FILES:
            if self.files == MAX_FILES + 1:
                message = f"more than {MAX_FILES} files are included, counting repetitions"
                self.problems.append(Diagnostic("AC004", message, where))
            return None
        try:
            text = self.read_text(path)
        except UnicodeDecodeError:
            self.problems.append(Diagnostic("AC001", f"{path} is not UTF-8 text", where))
            return None
        except (OSError, ValueError) as error:  # ValueError: no path at all, such as one with a zero byte
            words = getattr(error, "strerror", None) or error
            self.problems.append(Diagnostic("AC001", f"cannot read {path}: {words}", where))
            return None
        self.texts[path] = text
        tree, problems = parse(text, path, asked)
        self.problems += problems
        if tree is None:
            return None
        if not isinstance(tree.value, dict):
            self.problems.append(Diagnostic("AC104", "a spec is a mapping of sections", tree.span))
            return None
        return self._with_includes(tree, path, (*chain, path))

    def _with_includes(self, tree: Located, path: str, chain: tuple[str, ...]) -> Located:
        named = tree.items.get("include")
        own = replace(tree, value={k: v for k, v in tree.items.items() if k != "include"})
        if named is None:
            return own
        base: Located | None = None
        for entry in named.elements or (named,):
            file, name = self._asked_for(entry)
            if file is None:
                continue
            child = self.load(str(Path(path).parent / file), chain, entry.span)
            if child is None:
                continue
            child = replace(child, value={k: v for k, v in child.items.items() if k != "experiment"})
            if name:
                from compiler.frontend.scope import renamed  # which reads the models of stages

                child = renamed(child, name)
            if base is not None:
                self._refuse_conflicts(base, child, own)
            base = child if base is None else merge(base, child, self.problems)
        return own if base is None else merge(base, own, self.problems)

    def _asked_for(self, entry: Located) -> tuple[str | None, str]:
        """The file of an entry of `include`, and the name under which it is to stand."""
        file, name = entry.items.get("file", entry), entry.items.get("as")
        if not isinstance(file.value, str) or entry.items.keys() - {"file", "as"}:
            message = "`include` is a list of files, or of `{file: FILE, as: NAME}`"
            self.problems.append(Diagnostic("AC104", message, entry.span))
            return None, ""
        if name is not None and not (isinstance(name.value, str) and NAME.match(name.value)):
            message = f"{name.plain()!r} is not a good name for what is included"
            hint = "use letters, digits, `_` and `-`, beginning with a letter"
            self.problems.append(Diagnostic("AC106", message, name.span, hint))
            return None, ""
        return file.value, str(name.value) if name else ""

    def _refuse_conflicts(self, first: Located, second: Located, own: Located) -> None:
        """Two included files may define one name only alike, or where the including one settles it."""
        for section in SECTIONS:
            ours, theirs = first.items.get(section), second.items.get(section)
            if ours is None or theirs is None:
                continue
            for name in ours.items.keys() & theirs.items.keys():
                a, b = ours.items[name], theirs.items[name]
                over = own.find([section, name])
                settled = [merge(x, over[0], [], (section, name)) if over[1] == 2 else x for x in (a, b)]
                if settled[0].plain() != settled[1].plain():
                    self.problems.append(
                        Diagnostic(
                            "AC005",
                            f"two included files define `{section}.{name}` differently",
                            b.place,
                            "rename one, or define it in the including spec, which overrides both",
                            (("the other is at", a.place),),
                        )
                    )


def _override(tree: Located, text: str, problems: list[Diagnostic]) -> Located | Diagnostic:
    """One `a.b=c` applied; the value is read as YAML."""
    name, equals, value_text = text.partition("=")
    file = COMMAND_LINE + name
    span = Span(file, 1, 1, max(len(text), 1) + 1)
    if not equals or not all(name.split(".")):
        return Diagnostic("AC006", f"`{text}` is not of the form `a.b=value`", span)
    value, wrong = parse(value_text or "null", file)
    if wrong or value is None:
        return Diagnostic("AC006", f"the value of `{text}` cannot be read: {wrong[0].message}", span)
    parts = name.split(".")
    here, depth = tree.find(parts[:-1])
    if here.value is not None and not isinstance(here.value, dict):
        reached = ".".join(parts[:depth])
        what = "a list" if isinstance(here.value, tuple) else f"`{here.value}`"
        message = f"`{name}` would reach into {what}"
        note = (("which stands at", here.span),)
        return Diagnostic("AC006", message, span, f"replace it as a whole: `--set {reached}=...`", note)
    entry = _placed(value, span)
    for part in reversed(parts):
        entry = Located({part: entry}, span, span)
    return merge(tree, replace(entry, key=None), problems)


def _placed(tree: Located, span: Span) -> Located:
    """A value whose every part stands at one place: an override is one word of the command line."""
    if isinstance(tree.value, dict):
        return Located({k: _placed(v, span) for k, v in tree.value.items()}, span, span)
    if isinstance(tree.value, tuple):
        return Located(tuple(_placed(v, span) for v in tree.value), span, span)
    return Located(tree.value, span, span)


def load(
    path: str, overrides: Sequence[str], read_text: Callable[[str], str]
) -> tuple[Source, list[Diagnostic]]:
    """Read a spec with its includes and overrides, and report all that is wrong with the text.

    What could be read is returned all the same, so that later passes find their errors too. Raises
    SpecError only where nothing could be read.
    """
    loader = _Loader(read_text)
    tree = loader.load(path, (), None)
    texts = {**loader.texts, **{COMMAND_LINE + o.partition("=")[0]: o for o in overrides}}
    for override in overrides:
        applied = _override(tree or Located({}, NOWHERE), override, loader.problems)
        if isinstance(applied, Diagnostic):
            loader.problems.append(applied)
        elif tree is not None:
            tree = applied
    if tree is None:
        raise SpecError(loader.problems, texts)
    return Source(path, tree, texts), loader.problems
