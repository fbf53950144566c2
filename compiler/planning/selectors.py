"""Which nodes a user means: a small language in the manner of dbt, its parser and its evaluator.

    tune  tune[seed=0]  weak_*        nodes of a stage, some of them, nodes of several stages
    seed=0|1  learning_rate>=1e-3     by the value of an axis
    kind:sft  table:main  state:failed
    +x  x+  2+x  x+1  @x              x and what it needs, what needs it, so many steps of it, all around
    a b   a,b   !a                    union, intersection, all nodes but a

docs/selecting.md tells it to users. Text is read to a `Selection`; a selection and a program give a
set of nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NoReturn, get_args

from compiler.errors import UsageError, near
from compiler.frontend.interpolate import Label
from compiler.graph import Node
from compiler.program import Program

Method = Literal["stage", "axis", "kind", "table", "state"]
METHODS: tuple[Method, ...] = get_args(Method)
PHASES = ("done", "running", "queued", "unknown", "failed", "lost", "blocked", "waiting")
STATES = (*PHASES, "run", "rerun", "reuse", "wait")
ALL = -1  # as a number of steps: however many there are

_NAME = re.compile(r"[A-Za-z_*?][\w~*?-]*")
_COMPARE = re.compile(r"!=|<=|>=|=|<|>")
_QUOTED = re.compile(r"""(?:"(?:[^"]|"")*"|'(?:[^']|'')*')""")
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?(?=[\s,|+\]]|\Z)")
_BARE = re.compile(r"[^\s,|+\[\]\"']+")
_INSIDE = re.compile(r"(?:(?!,\s*[A-Za-z_][\w-]*\s*(?:!=|<=|>=|=|<|>))[^|\]\"'])+")
_PLAIN = re.compile(r"[\w.*?/:-]+\Z")


@dataclass(frozen=True, slots=True)
class Origin:
    """The piece of the user's text that something was read from."""

    text: str
    start: int
    end: int

    def refuse(self, message: str) -> NoReturn:
        caret = " " * self.start + "^" * max(1, self.end - self.start)
        raise UsageError(f"{message}\n    {self.text}\n    {caret}")


@dataclass(frozen=True, slots=True)
class Condition:
    """`axis=value`, also with several values, or a comparison."""

    axis: str
    compare: str
    values: tuple[str, ...]
    origin: Origin = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.axis}{self.compare}{'|'.join(map(_quoted, self.values))}"

    def holds(self, label: Label) -> bool:
        if self.compare == "=":
            return any(_same(label, v) for v in self.values)
        if self.compare == "!=":
            return not any(_same(label, v) for v in self.values)
        limit = _number(self.values[0])
        if limit is None or isinstance(label, (bool, str)):
            return False
        below, equal = label < limit, label == limit
        return {"<": below, "<=": below or equal, ">": not below and not equal, ">=": not below}[self.compare]


@dataclass(frozen=True, slots=True)
class Atom:
    """What is meant before graph operators: `names` of stages, kinds, tables or states; or conditions."""

    method: Method
    names: tuple[str, ...]
    conditions: tuple[Condition, ...]
    origin: Origin = field(compare=False, repr=False)

    def __str__(self) -> str:
        conditions = ",".join(map(str, self.conditions))
        if self.method == "axis":
            return conditions
        if self.method == "stage":
            return self.names[0] + (f"[{conditions}]" if conditions else "")
        return f"{self.method}:{'|'.join(self.names)}"


@dataclass(frozen=True, slots=True)
class Term:
    """An atom with its graph operators: steps to what it needs and to what needs it."""

    atom: Atom
    needs: int = 0
    needed_by: int = 0
    around: bool = False
    without: bool = False

    def __str__(self) -> str:
        before = "@" if self.around else f"{_steps(self.needs)}+" if self.needs else ""
        after = f"+{_steps(self.needed_by)}" if self.needed_by else ""
        return "!" * self.without + before + str(self.atom) + after


@dataclass(frozen=True, slots=True)
class Selection:
    """A union of intersections of terms."""

    alternatives: tuple[tuple[Term, ...], ...]

    def __str__(self) -> str:
        return " ".join(",".join(map(str, terms)) for terms in self.alternatives)


def _steps(number: int) -> str:
    return "" if number == ALL else str(number)


def _quoted(value: str) -> str:
    return value if _PLAIN.match(value) else '"' + value.replace('"', '""') + '"'


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _matches(glob: str, text: str) -> bool:
    """Like fnmatch, where only `*` and `?` mean something: brackets belong to node ids."""
    return (
        re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in glob), text, re.S)
        is not None
    )


def _same(label: Label, text: str) -> bool:
    if isinstance(label, bool):
        return str(label).lower() == text.lower()
    if isinstance(label, str):
        return label == text or _matches(text, label)
    return str(label) == text or _number(text) == label


# ---------------------------------------------------------------- reading


def parse(text: str) -> Selection:
    """Read a selection. Raises UsageError with the place in the text."""
    return _Parser(text).selection()


@dataclass(slots=True)
class _Parser:
    text: str
    at: int = 0

    def selection(self) -> Selection:
        self.space()
        if self.at == len(self.text):
            self.refuse("a selection names nodes, and this one is empty")
        alternatives: list[tuple[Term, ...]] = []
        while self.at < len(self.text):
            terms = [self.term()]
            self.space()
            while self.take(","):
                self.space()
                terms.append(self.term())
                self.space()
            alternatives.append(tuple(terms))
        return Selection(tuple(alternatives))

    def refuse(self, message: str, start: int | None = None) -> NoReturn:
        begin = self.at if start is None else start
        Origin(self.text, begin, max(self.at, begin + 1)).refuse(message)

    def space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, word: str) -> bool:
        found = self.text.startswith(word, self.at)
        self.at += len(word) * found
        return found

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def term(self) -> Term:
        without = self.take("!")
        around = self.take("@")
        needs = 0 if around else self.steps(re.compile(r"(\d*)\+"))
        atom = self.atom()
        after = self.at
        needed_by = self.steps(re.compile(r"\+(\d*)"))
        if around and needed_by:
            self.refuse("`@` already takes in all that follows", after)
        if self.at < len(self.text) and self.text[self.at] not in ", \t\n":
            self.refuse(f"`{self.text[self.at]}` is not expected here")
        return Term(atom, needs, needed_by, around, without)

    def steps(self, pattern: re.Pattern[str]) -> int:
        """The number of steps of `2+` or `+1`; 0 where there is no such operator."""
        found = pattern.match(self.text, self.at)
        if found is None:
            return 0
        self.at = found.end()
        number = int(found.group(1)) if found.group(1) else ALL
        if not number:
            self.refuse("no steps are no operator: leave it out", found.start())
        return number

    def atom(self) -> Atom:
        start = self.at
        name = self.match(_NAME)
        if name is None:
            self.refuse("the name of a stage, an axis or a node is expected here")
        if self.take(":"):
            return self.by_method(name, start)
        if _COMPARE.match(self.text, self.at):
            self.at = start
            condition = self.condition(_BARE)
            return Atom("axis", (), (condition,), self.origin(start))
        return self.nodes(name, start)

    def origin(self, start: int) -> Origin:
        return Origin(self.text, start, self.at)

    def by_method(self, method: str, start: int) -> Atom:
        if method not in METHODS:
            self.refuse(f"there is no way to select by `{method}`; {near(method, METHODS)}", start)
        if method == "axis":
            return Atom("axis", (), (self.condition(_BARE),), self.origin(start))
        begin = self.at
        names = [self.name(method)]
        if method == "stage":
            return self.nodes(names[0], begin)
        while self.take("|"):
            names.append(self.name(method))
        return Atom(method, tuple(names), (), self.origin(begin))

    def name(self, method: str) -> str:
        found = self.match(_NAME)
        if found is None:
            self.refuse(f"the name of a {method} is expected here")
        return found

    def nodes(self, stage: str, start: int) -> Atom:
        conditions: list[Condition] = []
        if self.take("["):
            opened = self.at - 1
            while True:
                self.space()
                conditions.append(self.condition(_INSIDE))
                if not self.take(","):
                    break
            if not self.take("]"):
                self.refuse("this bracket is not closed", opened)
        return Atom("stage", (stage,), tuple(conditions), self.origin(start))

    def condition(self, unquoted: re.Pattern[str]) -> Condition:
        start = self.at
        axis = self.match(_NAME)
        compare = self.match(_COMPARE)
        if axis is None or compare is None:
            self.refuse("`axis=value` is expected here", start)
        values = [self.value(unquoted)]
        while self.take("|"):
            values.append(self.value(unquoted))
        origin = self.origin(start)
        if compare in ("<", "<=", ">", ">=") and (len(values) > 1 or _number(values[0]) is None):
            origin.refuse(f"`{compare}` takes one number")
        return Condition(axis, compare, tuple(values), origin)

    def value(self, unquoted: re.Pattern[str]) -> str:
        quoted = self.match(_QUOTED)
        if quoted:
            return quoted[1:-1].replace(quoted[0] * 2, quoted[0])
        found = self.match(_NUMBER) or self.match(unquoted)
        if found is None:
            self.refuse("a value is expected here")
        return found.strip()


# ---------------------------------------------------------------- evaluating


@dataclass
class World:
    """What selections are about. `states` gives each node's words; it is asked only where one is."""

    program: Program
    states: Callable[[], Sequence[frozenset[str]]] = field(default=lambda: ())

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.program.graph.nodes

    @cached_property
    def needs(self) -> list[list[int]]:
        return [node.needs for node in self.nodes]

    @cached_property
    def needed_by(self) -> list[list[int]]:
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, needs in enumerate(self.needs):
            for need in needs:
                readers[need].append(index)
        return readers

    @cached_property
    def labels(self) -> dict[str, dict[Label, None]]:
        """Values of each axis, over all nodes."""
        return _labels(self.nodes)

    @cached_property
    def tables(self) -> dict[str, frozenset[int]]:
        """The nodes behind the cells of each table."""
        return {
            table.name: frozenset(
                b.node for row in table.rows for cell in row.cells for b in cell.members if b.node is not None
            )
            for table in self.program.tables
        }

    @cached_property
    def words(self) -> Sequence[frozenset[str]]:
        return self.states()


def choose(world: World, select: Iterable[str], exclude: Iterable[str] = ()) -> frozenset[int]:
    """The nodes of all of `select` (every node, where there is none) without those of `exclude`."""
    chosen = [evaluate(parse(text), world) for text in select]
    dropped = [evaluate(parse(text), world) for text in exclude]
    everything = frozenset(range(len(world.nodes)))
    return (frozenset().union(*chosen) if chosen else everything) - frozenset().union(*dropped)


def evaluate(selection: Selection, world: World) -> frozenset[int]:
    """The indices of the nodes meant. Raises UsageError for names that the program does not have."""
    found: set[int] = set()
    for terms in selection.alternatives:
        found |= frozenset.intersection(*(_term(term, world) for term in terms))
    return frozenset(found)


def _term(term: Term, world: World) -> frozenset[int]:
    found = _atom(term.atom, world)
    if term.around:
        found = _reach(_reach(found, world.needed_by, ALL), world.needs, ALL)
    else:
        before, after = (
            _reach(found, world.needs, term.needs),
            _reach(found, world.needed_by, term.needed_by),
        )
        found = before | after
    return frozenset(range(len(world.nodes))) - found if term.without else found


def _reach(start: frozenset[int], edges: Sequence[Sequence[int]], steps: int) -> frozenset[int]:
    """All that can be reached in so many steps; `start` included."""
    found, front = set(start), set(start)
    while front and steps:
        front = {other for index in front for other in edges[index]} - found
        found |= front
        steps -= 1
    return frozenset(found)


def _atom(atom: Atom, world: World) -> frozenset[int]:
    if atom.method == "axis":
        return _where(atom.conditions, range(len(world.nodes)), world.labels, world)
    if atom.method == "state":
        _known(atom, STATES)
        return frozenset(i for i, words in enumerate(world.words) if not words.isdisjoint(atom.names))
    if atom.method == "table":
        names = _known(atom, world.tables)
        return frozenset().union(*(world.tables[name] for name in names))
    if atom.method == "kind":
        kinds = dict.fromkeys(node.kind.name for node in world.nodes)
        names = _known(atom, kinds)
        return frozenset(i for i, node in enumerate(world.nodes) if node.kind.name in names)
    by_stage = world.program.graph.by_stage
    indices = [i for name in _known(atom, by_stage, _other_ways(atom, world)) for i in by_stage[name]]
    labels = _labels(world.nodes[i] for i in indices) if atom.conditions else {}
    return _where(atom.conditions, indices, labels, world)


def _known(atom: Atom, known: Iterable[str], other: str = "") -> set[str]:
    """The known names that an atom's names and globs stand for; a name that stands for none is refused."""
    every = list(known)
    found: set[str] = set()
    for glob in atom.names:
        some = {name for name in every if _matches(glob, name)}
        if not some:
            atom.origin.refuse(f"there is no {atom.method} `{glob}`; {other or near(glob, every)}")
        found |= some
    return found


def _other_ways(atom: Atom, world: World) -> str:
    """A hint where the name of a stage is that of something else."""
    name = atom.names[0]
    if any(node.kind.name == name for node in world.nodes):
        return f"`kind:{name}` selects by kind"
    if name in world.tables:
        return f"`table:{name}` selects by table"
    return f"`{name}=VALUE` selects by axis" if name in world.labels else ""


def _labels(nodes: Iterable[Node]) -> dict[str, dict[Label, None]]:
    found: dict[str, dict[Label, None]] = {}
    for node in nodes:
        for axis, label in node.shown_axes().items():
            found.setdefault(axis, {})[label] = None
    return found


def _where(
    conditions: Sequence[Condition],
    indices: Iterable[int],
    labels: dict[str, dict[Label, None]],
    world: World,
) -> frozenset[int]:
    """The nodes on which all conditions hold; one without the axis is not among them."""
    for condition in conditions:
        known: dict[Any, None] | None = labels.get(condition.axis)
        if known is None:
            condition.origin.refuse(
                f"there is no axis `{condition.axis}` here; {near(condition.axis, labels)}"
            )
        for value in condition.values:
            if condition.compare in ("=", "!=") and not any(_same(label, value) for label in known):
                condition.origin.refuse(
                    f"axis `{condition.axis}` has no value `{value}` here; {near(value, known)}"
                )
    found: list[int] = []
    for index in indices:
        axes = world.nodes[index].shown_axes() if conditions else {}
        if all(c.axis in axes and c.holds(axes[c.axis]) for c in conditions):
            found.append(index)
    return frozenset(found)
