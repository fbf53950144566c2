"""Warnings about a spec without errors: work nobody uses, sweeps nobody reduces, models not pinned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from compiler.errors import Diagnostic, Span, in_file_order
from compiler.frontend.link import mentioned
from compiler.frontend.spec import Declaration, Spec
from compiler.frontend.tables import Table
from compiler.graph import AxisId, Binding, Graph, axis_name, is_local
from runtime.declare import AnthropicLLM, OpenAiLLM

UNTUNED = (None, "plain")  # a model that has seen text only was not tuned to be asked in one way
PUBLIC_HOSTS = (None, "api.openai.com", "api.anthropic.com")
DATED = re.compile(r"[-@]\d{4}(-?\d\d-?\d\d)?(?!\d)")  # gpt-4o-2024-08-06, gpt-4-0613, claude-...-20241022
SNAPSHOTS = {"openai": "gpt-4o-2024-08-06", "anthropic": "claude-sonnet-4-5-20250929"}
# From the 4.6 generation on Anthropic's names have no date, and stand for one snapshot all the same.
DATELESS = re.compile(r"claude-[a-z]+-(\d+)(?:-(\d{1,2}))?\Z")


def lint(spec: Spec, graph: Graph, tables: Sequence[Table]) -> list[Diagnostic]:
    """Every warning of a spec that has no errors, in file order."""
    read = [b for node in graph.nodes for bindings in node.inputs.values() for b in bindings]
    found = (
        *_unused(spec, graph, read, tables),
        *_unreduced(spec, graph, tables),
        *_idle_axes(spec),
        *_other_chats(spec, graph),
        *_unpinned(read),
    )
    return in_file_order(found)


def _warning(code: str, message: str, place: Span, hint: str) -> Diagnostic:
    return Diagnostic(code, message, place, hint, severity="warning")


def _shown(tables: Sequence[Table]) -> Iterator[Binding]:
    return (b for table in tables for row in table.rows for cell in row.cells for b in cell.members)


def _unused(
    spec: Spec, graph: Graph, read: Sequence[Binding], tables: Sequence[Table]
) -> Iterator[Diagnostic]:
    """Stages that no stage reads and no table shows. Without tables the last stages are the purpose."""
    if not tables:
        return
    nodes = {b.node for b in read} | {b.node for b in _shown(tables)}
    used = {graph.nodes[node].stage for node in nodes if node is not None}
    for name, stage in spec.stages.items():
        if name not in used:
            hint = "show it in a table, read it in a stage, or remove it"
            message = f"no stage reads `{name}` and no table shows it"
            yield _warning("AC601", message, stage.body.place, hint)


def _unreduced(spec: Spec, graph: Graph, tables: Sequence[Table]) -> Iterator[Diagnostic]:
    """Sweeps and checkpoints that other stages inherit, and that end in no choice and no table."""
    reduced: set[AxisId] = set()
    inherited: dict[AxisId, None] = {}
    alike = {(node.stage, *node.axes): node for node in graph.nodes}  # one for all that have the same axes
    for node in alike.values():
        for b in (b for bindings in node.inputs.values() for b in bindings):
            made = graph.nodes[b.node].axes if b.node is not None else {}
            reduced |= (b.axes.keys() - node.axes.keys()) | (made.keys() - b.axes.keys())
        ours = node.stage.partition("~")[0]
        inherited.update(dict.fromkeys(a for a in node.axes if is_local(a) and _owner(a) != ours))
    for table in tables:
        rows = spec.tables[table.name][0].rows
        named = {*table.over, *([rows] if isinstance(rows, str) else rows if isinstance(rows, list) else ())}
        reduced |= {a for b in _shown([table]) for a in b.axes if axis_name(a) in named}
    for axis in inherited.keys() - reduced:
        if len({node.axes[axis] for node in graph.nodes if axis in node.axes}) > 1:
            hint = "choose one with `select`, or show each in a table with `rows` or `over`"
            what = f"`{axis_name(axis)}` of stage `{_owner(axis)}`"
            message = f"{what} multiplies the stages after it, and nothing reduces it"
            yield _warning("AC602", message, _where_added(spec, axis), hint)


def _owner(axis: AxisId) -> str:
    """The stage, as written, that added a local axis."""
    return axis.rpartition("/")[0].partition("~")[0]


def _where_added(spec: Spec, axis: AxisId) -> Span:
    stage, name = spec.stages[axis.rpartition("/")[0]], axis_name(axis)
    key = stage.sweep.get(name) or stage.body.items.get("checkpoint_every") or stage.body
    return key.place


def _idle_axes(spec: Spec) -> Iterator[Diagnostic]:
    """Axes of this spec (not of a library that it includes) that no stage mentions."""
    used = {name for stage in spec.stages.values() for name in mentioned(stage)}
    for name, values in spec.axes.items():
        place = values[0].place
        if name not in used and (place.file == spec.path or place.on_command_line):
            hint = f"write `${{{name}}}` in the stages that vary over it, or remove it"
            yield _warning("AC603", f"no stage mentions the axis `{name}`", place, hint)


def _other_chats(spec: Spec, graph: Graph) -> Iterator[Diagnostic]:
    """Models asked in another chat format than the one that they were tuned in."""
    for node in graph.nodes:
        chat = getattr(node.config, "chat", None)
        if chat is None or any(port.type == "Model" for port in node.outputs.values()):
            continue
        tuned = node.inputs["model"][0].port.chat
        if tuned not in (*UNTUNED, chat):
            written = spec.stages[node.stage].body
            hint = f"leave `chat` out: the model's own format is `{tuned}`"
            message = f"`{chat}` is not the chat format that the model was tuned in"
            yield _warning("AC604", message, written.items.get("chat", written).span, hint)


def _unpinned(read: Sequence[Binding]) -> Iterator[Diagnostic]:
    """Models of public APIs whose name may stand for another model tomorrow."""
    used = {b.declaration.name: b.declaration for b in read if b.declaration}
    for declaration in used.values():
        if _may_move(declaration):
            hint = f"name a snapshot, such as `{SNAPSHOTS[declaration.value.provider]}`"
            message = f"`{declaration.value.model}` names no snapshot: the provider may change what answers"
            yield _warning("AC605", message, declaration.body.items["model"].span, hint)


def _may_move(declaration: Declaration) -> bool:
    llm = declaration.value
    if not isinstance(llm, OpenAiLLM | AnthropicLLM) or _host(llm.base_url) not in PUBLIC_HOSTS:
        return False
    version = DATELESS.match(llm.model)
    if version and (int(version[1]), int(version[2] or 0)) >= (4, 6):
        return False
    return DATED.search(llm.model) is None


def _host(url: str | None) -> str | None:
    try:
        return urlsplit(url).hostname if url else None
    except ValueError:
        return ""
