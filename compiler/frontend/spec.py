"""Located tree -> typed spec: axes, declarations, stages as written, tables, claims, cluster, budget."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from pydantic import Field

from compiler.errors import NOWHERE, Diagnostic, Span, near
from compiler.frontend.figures import BarsFigure, LinesFigure
from compiler.frontend.interpolate import AxisValue
from compiler.frontend.presets import Presets, lay_under, read_presets
from compiler.frontend.source import NAME, Located, Source, made
from compiler.frontend.validate import validate
from runtime.declare import LLM, ModelDecl, Wording
from runtime.declare import Source as SourceDecl
from runtime.fields import Frozen
from runtime.stage import StageKind, kind_names, stage_kind
from runtime.tracking import Tracking

DECLARED: dict[str, tuple[str, Any]] = {  # section -> (artifact type, model)
    "models": ("Model", ModelDecl),
    "sources": ("Source", SourceDecl),
    "llms": ("LLM", LLM),
    "wordings": ("Wording", Wording),
}
_M = TypeVar("_M", bound=Frozen)


class Published(Frozen):
    """Published numbers to print beside ours."""

    file: str = Field(description="a CSV file, relative to the spec")
    row: str | list[str] = Field(
        description="CSV column that holds our row labels; where the rows are several axes, one for each"
    )
    rows: dict[str, str] = Field(
        default_factory=dict, description="our row label -> what the CSV has for it, where that differs"
    )
    columns: dict[str, dict[str, str]] = Field(
        description="our column -> {CSV column: value} that choose its rows"
    )
    value: str = Field("win_rate", description="CSV column of the number")
    standard_error: str | None = Field(
        "standard_error", description="CSV column of its standard error; null: there is none"
    )


class TableSpec(Frozen):
    """One table: rows and columns over stages, axes to average over, paired comparisons."""

    caption: str = Field("", description="text above the table")
    rows: str | list[str] | dict[str, str] = Field(
        description="an axis, a list of axes, or `label: stage` for one row each"
    )
    columns: dict[str, str] | list[str] = Field(
        description="`label: stage.metric`; where the rows are stages, `label: metric` or a list of metrics"
    )
    over: list[str] = Field(default_factory=list, description="axes to average over, such as seeds")
    compare: dict[str, str] = Field(
        default_factory=dict, description="paired differences: this column (or row) minus that one"
    )
    published: Published | None = Field(None, description="published numbers to print beside ours")
    figure: BarsFigure | LinesFigure | None = Field(
        None, discriminator="form", description="how it is drawn; none: as bars side by side"
    )


class ClaimSpec(Frozen):
    """A statement about a table that its numbers decide: holds, does not hold, or cannot tell."""

    says: str = Field("", description="the claim in words")
    table: str = Field(description="the table it speaks of")
    better: str = Field(description="label of the column (where rows are stages: the row) said to be ahead")
    than: str = Field(description="label of the other one")
    margin: float = Field(
        0.0,
        description="in the score's unit: the claim allows `better` to be behind by less than this; below 0: "
        "it asks for a lead of more",
    )
    where: list[str | int | float] = Field(
        default_factory=list, description="rows (or columns) that it speaks of; none: all"
    )
    of: Literal["every", "some"] = Field("every", description="whether it must be so at every one of them")
    level: float = Field(
        0.95, gt=0, lt=1, description="each verdict is wrong with a probability of (1 - level) / 2 at most"
    )


class Budget(Frozen):
    """What the experiment may cost at most in a store: spent before and likely to come, added up."""

    gpu_hours: float | None = Field(None, ge=0, description="GPU-hours: wall time of jobs times their GPUs")
    usd: float | None = Field(None, ge=0, description="dollars for the tokens of APIs")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as written: shorthand already spelled out, values not yet filled in."""

    name: str
    kind: StageKind
    body: Located
    sweep: Mapping[str, Located]


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declared model, source or llm."""

    section: str
    name: str
    type: str
    value: Any
    body: Located


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything a spec says, checked one entry at a time."""

    path: str
    experiment: str
    axes: Mapping[str, tuple[AxisValue, ...]]
    declarations: Mapping[str, Declaration]
    stages: Mapping[str, Stage]
    tables: Mapping[str, tuple[TableSpec, Located]]
    claims: Mapping[str, tuple[ClaimSpec, Located]]
    cluster: Located | None
    budget: Budget
    budget_at: Located
    tracking: Tracking


TOP = (
    "experiment",
    "include",
    "axes",
    *DECLARED,
    "presets",
    "stages",
    "tables",
    "claims",
    "cluster",
    "budget",
    "tracking",
)


def read_spec(source: Source) -> tuple[Spec, list[Diagnostic]]:
    """The spec of a source. Entries with problems are left out and reported."""
    problems: list[Diagnostic] = []
    tree = source.tree
    for name, value in tree.items.items():
        if name not in TOP:
            problems.append(
                Diagnostic("AC101", f"a spec has no section `{name}`", value.place, near(name, TOP))
            )

    def section(name: str) -> dict[str, Located]:
        found = tree.items.get(name)
        if found is None or found.value is None:
            return {}
        if not isinstance(found.value, dict):
            hint = "write `name: ...` without the `-`" if found.elements else ""
            problems.append(Diagnostic("AC104", f"`{name}` is a mapping of names", found.span, hint))
        for key, entry in found.items.items():
            if not NAME.match(key):
                hint = "use letters, digits, `_` and `-`, beginning with a letter"
                problems.append(
                    Diagnostic("AC106", f"`{key}` is not a good name in `{name}`", entry.place, hint)
                )
        return found.items

    axes = {name: _axis(name, body, problems) for name, body in section("axes").items()}
    declarations = _declarations({name: section(name) for name in DECLARED}, problems)
    presets = read_presets(section("presets"), problems)
    stages = _stages(section("stages"), declarations, presets, problems)
    cluster = tree.items.get("cluster")
    if cluster is not None and not isinstance(cluster.value, str):
        problems.append(Diagnostic("AC104", "`cluster` is the name of a profile", cluster.span))
    budget_at = tree.items.get("budget") or Located({}, NOWHERE)
    budget, found = validate(Budget, budget_at, "`budget`")
    problems += found
    tracking, found = validate(Tracking, tree.items.get("tracking") or Located({}, NOWHERE), "`tracking`")
    problems += found
    spec = Spec(
        path=source.path,
        experiment=_experiment(tree, source.path, problems),
        axes=axes,
        declarations=declarations,
        stages=stages,
        tables=_entries(TableSpec, "table", section("tables"), problems),
        claims=_entries(ClaimSpec, "claim", section("claims"), problems),
        cluster=cluster,
        budget=budget or Budget(gpu_hours=None, usd=None),
        budget_at=budget_at,
        tracking=tracking or Tracking(),
    )
    return spec, problems


def _experiment(tree: Located, path: str, problems: list[Diagnostic]) -> str:
    named = tree.items.get("experiment")
    if named is None:
        problems.append(Diagnostic("AC102", "the spec needs `experiment: NAME`", Span(path, 1, 1, 2)))
        return "unnamed"
    if not isinstance(named.value, str) or not NAME.match(named.value):
        hint = "use letters, digits, `_` and `-`, beginning with a letter"
        problems.append(Diagnostic("AC106", f"{named.plain()!r} is not a good name", named.span, hint))
        return "unnamed"
    return named.value


def _axis(name: str, body: Located, problems: list[Diagnostic]) -> tuple[AxisValue, ...]:
    """Values of an axis, from a list of scalars and one-key records, or a mapping label -> record."""
    if isinstance(body.value, dict):
        values = [_axis_value(label, record, problems) for label, record in body.items.items()]
    elif isinstance(body.value, tuple):
        values = [v for element in body.value if (v := _listed(element, problems))]
    else:
        problems.append(Diagnostic("AC104", f"axis `{name}` is a list of values", body.span))
        return ()
    if not values:
        problems.append(Diagnostic("AC104", f"axis `{name}` has no values", body.place))
    problems += _repeated(f"axis `{name}`", ((value.label, value.place) for value in values))
    return tuple(values)


def _listed(element: Located, problems: list[Diagnostic]) -> AxisValue | None:
    if isinstance(element.value, dict) and len(element.value) == 1:
        ((label, record),) = element.items.items()
        return _axis_value(label, record, problems)
    if element.value is None or isinstance(element.value, (dict, tuple)):
        problems.append(Diagnostic("AC104", "an axis value is a scalar, or `label: {fields}`", element.span))
        return None
    return AxisValue(element.value, element.span)


def _axis_value(label: str, record: Located, problems: list[Diagnostic]) -> AxisValue:
    if record.value is not None and not isinstance(record.value, dict):
        problems.append(Diagnostic("AC104", f"the fields of axis value `{label}` are a mapping", record.span))
    return AxisValue(label, record.place, record)


def _declarations(
    sections: Mapping[str, dict[str, Located]], problems: list[Diagnostic]
) -> dict[str, Declaration]:
    found: dict[str, Declaration] = {}
    for section, entries in sections.items():
        type_, model = DECLARED[section]
        for name, body in entries.items():
            if name in found:
                note = (("the other is at", found[name].body.place),)
                message = f"`{name}` is declared in `{section}` and in `{found[name].section}`"
                problems.append(Diagnostic("AC107", message, body.place, "rename one", note))
            value, wrong = validate(model, body, f"`{section}.{name}`")
            problems += wrong
            found[name] = Declaration(section, name, getattr(value, "artifact", type_), value, body)
    return found


def _stages(
    entries: Mapping[str, Located],
    declarations: Mapping[str, Declaration],
    presets: Presets,
    problems: list[Diagnostic],
) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    for name, body in entries.items():
        if name in declarations:
            note = (("the declaration is at", declarations[name].body.place),)
            message = f"`{name}` is a stage and a declaration"
            problems.append(Diagnostic("AC107", message, body.place, "rename one", note))
        for stage in _stage(name, body, entries, presets, problems):
            stages[stage.name] = stage
    return stages


def _kind(name: str, body: Located, names: Iterable[str], problems: list[Diagnostic]) -> StageKind | None:
    if not isinstance(body.value, dict):
        problems.append(Diagnostic("AC104", f"stage `{name}` is a mapping", body.span))
        return None
    written = body.items.get("kind")
    if written is None:
        others = [n for n in names if n != name] if body.place.on_command_line else []
        meant = difflib.get_close_matches(name, others, n=1)
        hint = f"did you mean `{meant[0]}`?" if meant else f"one of {', '.join(kind_names())}"
        problems.append(Diagnostic("AC102", f"stage `{name}` needs `kind`", body.place, hint))
        return None
    kind = stage_kind(str(written.value))
    if kind is None:
        hint = near(str(written.value), kind_names())
        problems.append(
            Diagnostic("AC105", f"there is no stage kind `{written.plain()}`", written.span, hint)
        )
    return kind


def _stage(
    name: str, body: Located, names: Iterable[str], presets: Presets, problems: list[Diagnostic]
) -> Iterable[Stage]:
    """A stage with its shorthand spelled out: usually itself."""
    kind = _kind(name, body, names, problems)
    if kind is None:
        return
    sweep = _sweep(name, body, problems)
    written = {key: value for key, value in body.items.items() if key != "sweep"}
    entries = lay_under(kind, written, sweep, presets, problems)
    spelled = kind.expand(name, entries)
    if sweep:
        shared = kind.share(name, spelled[name], frozenset(sweep))
        for extra in shared.keys() - spelled.keys():
            located = made(shared[extra], body)
            extra_kind = stage_kind(str(located.items["kind"].value))
            assert extra_kind is not None
            yield Stage(extra, extra_kind, replace(located, key=body.key), {})
        spelled = {**spelled, name: shared[name]}
    for made_name, made_entries in spelled.items():
        located = made(made_entries, body)
        made_kind = kind if made_name == name else stage_kind(str(located.items["kind"].value))
        assert made_kind is not None
        fields = {info.alias or field for field, info in made_kind.config.model_fields.items()}
        own = {key: value for key, value in sweep.items() if key in fields}
        sweep = {key: value for key, value in sweep.items() if key not in own}
        yield Stage(made_name, made_kind, replace(located, key=body.key), own)
    for key, value in sweep.items():
        hint = near(key, kind.config.model_fields)
        problems.append(Diagnostic("AC207", f"`{kind.name}` has no key `{key}` to sweep", value.place, hint))


def _sweep(name: str, body: Located, problems: list[Diagnostic]) -> dict[str, Located]:
    written = body.items.get("sweep")
    if written is None:
        return {}
    if not isinstance(written.value, dict):
        problems.append(
            Diagnostic("AC104", f"`sweep` of stage `{name}` is a mapping key -> values", written.span)
        )
        return {}
    found: dict[str, Located] = {}
    for key, values in written.items.items():
        if not values.elements:
            problems.append(Diagnostic("AC207", f"the sweep of `{key}` is a list of values", values.span))
        elif any(isinstance(v.value, (dict, tuple)) for v in values.elements):
            problems.append(
                Diagnostic("AC207", f"the sweep of `{key}` holds more than plain values", values.span)
            )
        elif key in body.items:
            message = f"stage `{name}` sets `{key}` and sweeps it"
            problems.append(Diagnostic("AC207", message, values.place, "remove one of the two"))
            found[key] = values  # what reads the stage is not to blame
        else:
            found[key] = values
            problems += _repeated(f"the sweep of `{key}`", ((v.value, v.span) for v in values.elements))
    return found


def _repeated(what: str, values: Iterable[tuple[Any, Span]]) -> list[Diagnostic]:
    """Values that stand twice among those of an axis or a sweep."""
    problems: list[Diagnostic] = []
    first: dict[Any, Span] = {}
    for value, place in values:
        if value in first:
            note = (("first stands at", first[value]),) if first[value] != place else ()
            problems.append(Diagnostic("AC003", f"{what} has the value `{value}` twice", place, notes=note))
        first.setdefault(value, place)
    return problems


def _entries(
    model: type[_M], what: str, entries: Mapping[str, Located], problems: list[Diagnostic]
) -> dict[str, tuple[_M, Located]]:
    """The entries of a section, checked, each with its place."""
    found: dict[str, tuple[_M, Located]] = {}
    for name, body in entries.items():
        value, wrong = validate(model, body, f"{what} `{name}`")
        problems += wrong
        if value is not None:
            found[name] = (value, body)
    return found
