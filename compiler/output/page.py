"""Plan -> one offline HTML page: the graph of stages, which opens to nodes, scripts and spec lines.

The graph and the table of stages are plain HTML. What opens is kept as one folded JSON value, which
the page's script unfolds when it is looked at: indices instead of texts, runs instead of lists.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compiler.errors import Span
from compiler.graph import axis_name
from compiler.output.emit import SIGNS, by_stage, matrix, needed_stages, reasons, totals
from compiler.output.layout import ROW_HEIGHT, Box, Drawing, draw
from compiler.planning.plan import JobGroup, Plan, Step, processes
from compiler.site.profile import Profile
from compiler.slurm.script import Script, preview
from runtime.plural import counted
from runtime.store import Store
from runtime.templates import environment

MAX_BYTES = 1_000_000
WORDS = {
    "run": "to run",
    "rerun": "to run again",
    "reuse": "reused",
    "wait": "queued or running",
    "blocked": "blocked",
}
HOLE = "\x01"  # stands for a node's id in a reason
MAX_REASON = 300  # characters
MAX_EXCERPT = 80, 300  # lines, characters of a line

_NODE_ID = re.compile(r"[\w~-]+(?:\[[^\]]*\])?")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of what could be endless the page holds."""

    digits: int  # of a key
    nodes: int  # listed of each stage
    jobs: int  # shown of all


# Tried in turn until the page is small enough to be mailed.
DETAIL = (
    Limits(40, 1_000_000, 500),
    Limits(12, 1_000_000, 200),
    Limits(12, 1_000, 100),
    Limits(12, 100, 50),
    Limits(12, 10, 20),
)


@dataclass(frozen=True, slots=True)
class CostWords:
    """Costs in words, where they were estimated: of the plan, of stages by name, of nodes by their index."""

    plan: Sequence[str] = ()
    stages: Mapping[str, str] = field(default_factory=dict[str, str])
    nodes: Mapping[int, str] = field(default_factory=dict[int, str])


def to_html(plan: Plan, profile: Profile, store: Store, costs: CostWords | None = None) -> str:
    """The page, in as much detail as its size allows. Fragments open it at a place: `#stage=NAME`,
    `#node=ID`, `#find=PART_OF_AN_ID`, `#action=ACTION`.
    """
    costs = costs or CostWords()
    scripts = list(preview(plan, profile, store))
    for limits in DETAIL:
        if len(plan.steps) * limits.digits > MAX_BYTES and limits.nodes > len(plan.steps):
            continue  # the keys alone would be too much
        text = _fill(plan, scripts, costs, limits)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


# ---------------------------------------------------------------- the graph and the table of stages


@dataclass(frozen=True, slots=True)
class Count:
    """How many nodes have an action."""

    action: str
    sign: str
    words: str
    nodes: int


@dataclass(frozen=True, slots=True)
class StageLine:
    """A stage as the graph and the table show it. `bar` divides its box by action: x and width."""

    name: str
    matrix: str
    kind: str
    counts: tuple[Count, ...]
    bar: tuple[tuple[str, float, float], ...]
    why: str
    hours: str
    place: str
    box: Box


def _counts(steps: Iterable[Step]) -> tuple[Count, ...]:
    found = Counter[str](s.action for s in steps)
    return tuple(Count(a, sign, WORDS.get(a, a), found[a]) for a, sign in SIGNS.items() if found[a])


def _width(name: str, matrix: str, kind: str, counts: Sequence[Count]) -> float:
    """Room for a box's three lines in the fonts of the page, which are a little narrower."""
    signs = sum(len(f"{c.sign} {c.nodes}") + 1 for c in counts)
    return min(270.0, 22 + max(8.7 * len(name), 6.9 * len(matrix), 6.5 * (len(kind) + 2 + signs)))


def _bar(counts: Sequence[Count], box: Box) -> tuple[tuple[str, float, float], ...]:
    total = sum(c.nodes for c in counts)
    x, pieces = box.x, []
    for count in counts:
        width = box.width * count.nodes / total
        pieces.append((count.action, round(x, 1), round(width, 1)))
        x += width
    return tuple(pieces)


def _hours(asked: Sequence[tuple[float, float]]) -> str:
    """CPU-hours and GPU-hours that time limits allow, in all."""
    cpu, gpu = (sum(hours[i] for hours in asked) for i in (0, 1))
    return ", ".join(f"{_number(n)} {unit}" for n, unit in ((cpu, "CPU-h"), (gpu, "GPU-h")) if n)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _place(span: Span) -> str:
    return f"{span.file}:{span.line}"


# ---------------------------------------------------------------- what opens, folded


def _runs(numbers: Iterable[int]) -> list[int]:
    """Rising runs folded: 5, -3 stands for 5, 6, 7, 8."""
    folded: list[int] = []
    last = None
    for number in numbers:
        if last is not None and number == last + 1:
            if folded[-1] < 0:
                folded[-1] -= 1
            else:
                folded.append(-1)
        else:
            folded.append(number)
        last = number
    return folded


def _column(values: list[Any]) -> Any:
    """One number for a column that holds nothing else."""
    one = isinstance(values[0], int) and all(value == values[0] for value in values)
    return values[0] if one else values


@dataclass(slots=True)
class _Strings:
    """Texts, each kept once, by number."""

    numbers: dict[str, int] = field(default_factory=dict[str, int])

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def _asks(step: Step) -> str:
    asked, cpus = step.node.resources, step.node.resources.cpus * processes(step.node)
    hours = _hours([(cpus * asked.minutes / 60, asked.gpus * asked.minutes / 60)])
    gpus = f", {counted(asked.gpus, 'GPU')}" if asked.gpus else ""
    nodes = f"{asked.nodes} nodes, " if asked.nodes > 1 else ""
    return (
        f"{nodes}{counted(cpus, 'CPU')}{gpus}, {asked.memory_gb:g} GiB, {asked.minutes} min at most ({hours})"
    )


def _why(step: Step, ids: Mapping[str, int], string: _Strings) -> Any:
    """A reason as the number of a text with holes, and the nodes that belong there."""
    named: list[int] = []

    def hole(found: re.Match[str]) -> str:
        index = ids.get(found[0])
        if index is None or ("[" not in found[0] and index not in step.needs):
            return found[0]  # a word that happens to be the name of a stage
        named.append(index)
        return HOLE

    text = string(_NODE_ID.sub(hole, step.why[:MAX_REASON].replace(HOLE, "")))
    return [text, *named] if named else text


def _axes(steps: Sequence[Step]) -> list[Any]:
    """Each axis: its name, its labels, and the number of each step's label."""
    axes = []
    for axis in steps[0].node.axes:
        labels: dict[str, int] = {}
        at = [labels.setdefault(str(s.node.axes[axis]), len(labels)) for s in steps]
        axes.append([axis_name(axis), list(labels), _column(at)])
    return axes


def _excerpt(place: Span, texts: Mapping[str, str]) -> list[str]:
    """The lines of a stage: that of its name, and those below that stand further to the right."""
    lines = texts.get(place.file, "").splitlines()[place.line - 1 :]
    end = 1
    for number, line in enumerate(lines[1:], 1):
        text = line.lstrip()
        if text and not text.startswith("#"):
            if len(line) - len(text) < place.column:
                break
            end = number + 1
    return [line[: MAX_EXCERPT[1]] for line in lines[: min(end, MAX_EXCERPT[0])]]


def _overrides(stage: str, texts: Mapping[str, str]) -> list[str]:
    """What `--set` changes of a stage, shorthand included."""
    start = f"--set stages.{stage.partition('~')[0]}"
    return [f"--set {text}" for file, text in texts.items() if file == start or file.startswith(start + ".")]


def _stage(
    steps: Sequence[tuple[int, Step]],
    texts: Mapping[str, str],
    costs: Mapping[int, str],
    ids: Mapping[str, int],
    string: _Strings,
) -> dict[str, Any]:
    listed = [step for _, step in steps]
    node, known = listed[0].node, set(ids.values())
    facts = {"asks for": map(_asks, listed), "cost": (costs.get(index, "") for index, _ in steps)}
    return {
        "name": node.stage,
        "kind": node.kind.name,
        "place": _place(node.place),
        "line": node.place.line,
        "lines": _excerpt(node.place, texts),
        "set": _overrides(node.stage, texts),
        "steps": _runs(index for index, _ in steps),
        "axes": _axes(listed),
        "actions": "".join(SIGNS[s.action] for s in listed),
        "why": _column([_why(s, ids, string) for s in listed]),
        "facts": [[label, _column([string(text) for text in column])] for label, column in facts.items()],
        "needs": [_runs(i for i in s.needs if i in known) for s in listed],
    }


def _data(
    plan: Plan, scripts: Sequence[tuple[Script, str]], costs: Mapping[int, str], limits: Limits
) -> dict[str, Any]:
    """Everything that the page's script shows."""
    string = _Strings()
    shown = [(i, s) for i, s in enumerate(plan.steps) if plan.selected is None or i in plan.selected]
    ids = {s.node.id: i for i, s in shown}
    members: dict[str, list[tuple[int, Step]]] = {}
    for index, step in shown:
        members.setdefault(step.node.stage, []).append((index, step))
    stages = []
    for steps in members.values():
        listed = steps[: limits.nodes]
        stages.append(
            {
                **_stage(listed, plan.program.texts, costs, ids, string),
                "left_out": len(steps) - len(listed),
                "matrix": matrix([s.node for _, s in steps]),
                "counts": Counter(SIGNS[s.action] for _, s in steps),
                "keys": "".join(s.key[: limits.digits] for _, s in listed),
            }
        )
    return {
        "digits": limits.digits,
        "actions": {sign: [action, WORDS.get(action, action)] for action, sign in SIGNS.items()},
        "stages": stages,
        "jobs": [
            {
                "name": script.job.name,
                "stage": plan.steps[script.job.steps[0]].node.stage,
                "call": call,
                "lines": [string(line) for line in script.text.splitlines()],
                "steps": _runs(script.job.steps),
                "sizes": _column([len(task) for task in script.job.tasks if task]),
            }
            for script, call in scripts[: limits.jobs]
        ],
        "strings": list(string.numbers),
    }


# ---------------------------------------------------------------- the page


def _lines(plan: Plan) -> tuple[list[StageLine], Drawing]:
    """The stages with their boxes, and the drawing these stand in."""
    stages = by_stage(plan)
    to_run: dict[str, list[JobGroup]] = {}
    for job in plan.jobs:
        to_run.setdefault(plan.steps[job.steps[0]].node.stage, []).append(job)
    shown = {
        name: (matrix([s.node for s in steps]), steps[0].node.kind.name, _counts(steps))
        for name, steps in stages.items()
    }
    drawing = draw(
        {name: _width(name, *told) for name, told in shown.items()},
        [(need, name) for name, steps in stages.items() for need in needed_stages(plan, steps, stages)],
    )
    lines = []
    for name, steps in stages.items():
        axes, kind, counts = shown[name]
        box = drawing.boxes[name]
        lines.append(
            StageLine(
                name=name,
                matrix=axes,
                kind=kind,
                counts=counts,
                bar=_bar(counts, box),
                why=reasons(steps),
                hours=_hours([job.hours for job in to_run.get(name, [])]),
                place=_place(steps[0].node.place),
                box=box,
            )
        )
    return lines, drawing


def _fill(plan: Plan, scripts: Sequence[tuple[Script, str]], costs: CostWords, limits: Limits) -> str:
    from jinja2.utils import htmlsafe_json_dumps
    from markupsafe import Markup

    data = _data(plan, scripts, costs.nodes, limits)
    lines, drawing = _lines(plan)
    jinja = environment().overlay(autoescape=True)
    script = jinja.get_template("plan/script.js").render()
    shown = plan.shown()
    listed = len(shown) - sum(stage["left_out"] for stage in data["stages"])
    return jinja.get_template("plan/plan.html.j2").render(
        experiment=plan.program.spec.experiment,
        spec=plan.program.spec.path,
        nodes=len(shown),
        of=len(plan.steps) if plan.selected is not None else None,
        listed=listed,
        jobs=len(scripts),
        jobs_shown=len(data["jobs"]),
        estimate=[*totals(plan)[1:], *costs.plan],
        costs=costs.stages,
        counts=_counts(shown),
        changes=plan.effects,
        stages=lines,
        drawing=drawing,
        row_height=ROW_HEIGHT,
        data=htmlsafe_json_dumps(data, separators=(",", ":"), ensure_ascii=False),
        script=Markup(script),  # ours, and without holes
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
