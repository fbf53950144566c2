"""Program -> what the runtime reads: a description of each job, and of the tables and claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compiler.frontend.claims import Claim
from compiler.frontend.tables import Cell, Table
from compiler.graph import Binding, Node, axis_name
from compiler.program import Program
from runtime.files import write_json
from runtime.job import SCHEMA
from runtime.provenance import code_version
from runtime.store import Store

TABLES_SCHEMA = "alignc.tables/1"


def _input(program: Program, binding: Binding) -> dict[str, Any]:
    common = {"type": binding.port.type, "name": binding.name}
    if binding.node is None:
        assert binding.declaration is not None
        value = program.spec.declarations[binding.declaration.name].value.model_dump(mode="json")
        return {**common, "section": binding.declaration.section, "declared": value}
    return {
        **common,
        "kind": program.graph.nodes[binding.node].kind.name,
        "key": program.identities[binding.node].key,
        "path": binding.path,
        "metric": binding.metric,
        "axes": {axis_name(a): v for a, v in binding.axes.items()},
    }


def _spec(program: Program) -> dict[str, Any]:
    return {"path": program.spec.path, **code_version(Path(program.spec.path).resolve().parent)}


def describe_jobs(
    program: Program, estimated: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Iterator[dict[str, Any]]:
    """The description of each node's job, in graph order; `estimated`: by key what it is likely to cost."""
    spec = _spec(program)
    budget = program.spec.budget.model_dump(mode="json", exclude_none=True)
    tracking = program.spec.tracking.model_dump(mode="json", exclude_none=True)
    configs: dict[int, Any] = {}
    for node, identity in zip(program.graph.nodes, program.identities, strict=True):
        if id(node.config) not in configs:
            configs[id(node.config)] = node.config.model_dump(mode="json")
        yield {
            "schema": SCHEMA,
            "experiment": program.spec.experiment,
            "id": node.id,
            "stage": node.stage,
            "axes": node.shown_axes(),
            "kind": node.kind.name,
            "version": node.kind.version,
            "key": identity.key,
            "asked": identity.asked,
            "recipe": identity.recipe,
            "config": configs[id(node.config)],
            "inputs": {name: [_input(program, b) for b in found] for name, found in node.inputs.items()},
            "resources": node.resources.model_dump(mode="json"),
            "spec": {**spec, "place": _place(node)},
            **({"budget": budget} if budget else {}),
            **({"tracking": tracking} if tracking else {}),
            **({"estimated": estimated[identity.key]} if identity.key in estimated else {}),
        }


def _place(node: Node) -> str:
    return f"{node.place.file}:{node.place.line}"


def _member(program: Program, binding: Binding) -> dict[str, Any]:
    assert binding.node is not None
    node = program.graph.nodes[binding.node]
    return {
        "node": node.id,
        "axes": {axis_name(a): v for a, v in binding.axes.items()},
        "kind": node.kind.name,
        "key": program.identities[binding.node].key,
        "field": binding.metric,
        "place": _place(node),
    }


def _cell(program: Program, cell: Cell) -> dict[str, Any] | None:
    if not cell.members:
        return None
    return {
        "members": [_member(program, b) for b in cell.members],
        "line": f"{cell.place.file}:{cell.place.line}",
    }


def _table(program: Program, table: Table) -> dict[str, Any]:
    def members(cell: Cell) -> list[dict[str, Any]]:
        return [_member(program, b) for b in cell.members]

    return {
        "name": table.name,
        "caption": table.caption,
        "row_header": table.row_header,
        "columns": [{"label": label, "metric": metric.rpartition(".")[2]} for label, metric in table.columns],
        "rows": [{"label": r.label, "cells": [_cell(program, c) for c in r.cells]} for r in table.rows],
        "over": list(table.over),
        "comparisons": [
            {
                "label": f"{c.a_label} - {c.b_label}",
                "a_label": c.a_label,
                "b_label": c.b_label,
                "row": c.row,
                "column": c.column,
                "a": members(c.a),
                "b": members(c.b),
                "field": c.metric,
            }
            for c in table.comparisons
        ],
        "published": [
            {
                "row": p.row,
                "column": p.column,
                "value": p.value,
                "standard_error": p.standard_error,
                "source": p.source,
            }
            for p in table.published
        ],
        **({"figure": dict(table.figure)} if table.figure else {}),
    }


def _claim(claim: Claim) -> dict[str, Any]:
    told = claim.told.model_dump(exclude={"where"})
    return {"name": claim.name, **told, "pairs": [asdict(pair) for pair in claim.pairs]}


def describe_tables(program: Program) -> dict[str, Any]:
    """The tables and claims of a spec, with the node behind every number."""
    shown = {table.name for table in program.tables}
    return {
        "schema": TABLES_SCHEMA,
        "experiment": program.spec.experiment,
        "spec": _spec(program),
        "tables": [_table(program, table) for table in program.tables],
        "claims": [_claim(claim) for claim in program.claims if claim.told.table in shown],
        "nodes": [
            {
                "id": node.id,
                "stage": node.stage,
                "kind": node.kind.name,
                "key": identity.key,
                "asked": identity.asked,
                "axes": node.shown_axes(),
                "needs": [program.graph.nodes[i].id for i in node.needs],
                "place": _place(node),
            }
            for node, identity in zip(program.graph.nodes, program.identities, strict=True)
        ],
    }


def description_path(store: Store, program: Program, key: str) -> Path:
    return store.experiment(program.spec.experiment) / "nodes" / f"{key}.json"


def write_descriptions(
    store: Store,
    program: Program,
    keys: set[str],
    paid_gpus: Mapping[str, float] = MappingProxyType({}),
    estimated: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Put the descriptions of the given keys into the store, before anything may run them.

    paid_gpus: of those on whole nodes, the GPUs that each pays for. estimated: what each is likely to cost.
    """
    for description in describe_jobs(program, estimated):
        if description["key"] in keys:
            if description["key"] in paid_gpus:
                description["paid_gpus"] = paid_gpus[description["key"]]
            path = description_path(store, program, description["key"])
            write_json(path, description, durable=False)
