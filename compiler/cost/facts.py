"""Gathers what an estimate needs to know: data, models, prices, and the history of the store.

Reads only what nodes that are still to be made depend on, and of that only what planning can afford.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from compiler.cost.counts import Count, Memory, count_rows, count_source, sample_texts
from compiler.cost.flow import Facts, Lm, SourceKey, source_key
from compiler.cost.history import read_history
from compiler.cost.models import characters_per_token, size_of
from compiler.cost.prices import Price, Tables, price_of
from compiler.graph import Binding, Node
from compiler.program import Program
from runtime.declare import ModelDecl
from runtime.store import Store

COUNTS = ".counts"
TEXTS = ("Prompts", "Demonstrations", "Completions", "Preferences")
FIRST = 20  # artifacts of a stage's output that are counted; the others are taken to be like the first


def gather(program: Program, sealed: Collection[str], store: Store, tables: Tables) -> Facts:
    """The facts behind an estimate of the nodes that are not sealed."""
    memory = Memory(store.root / COUNTS)
    nodes, keys = program.graph.nodes, program.keys
    to_make = [i for i, key in enumerate(keys) if key not in sealed]
    if not to_make:
        return Facts()
    kinds = dict.fromkeys(nodes[i].kind.name for i in to_make)
    own: dict[str, list[str]] = {}
    for node, key in zip(nodes, keys, strict=True):
        if key in sealed:
            own.setdefault(node.kind.name, []).append(key)
    return Facts(
        sources=_sources([nodes[i] for i in to_make], memory),
        sealed=_sealed(program, to_make, frozenset(sealed), store, memory),
        models=_models(program, memory),
        prices=_prices(program, tables),
        history=read_history(store, _alike(kinds), own),
    )


def _alike(kinds: dict[str, None]) -> dict[str, None]:
    """Kinds whose jobs tell something: what only reads does so at the speed of training."""
    readers = {"sample": "sft", "score": "reward", "rank": "reward"}
    return {**kinds, **dict.fromkeys(readers[kind] for kind in kinds if kind in readers)}


def _sources(nodes: list[Node], memory: Memory) -> dict[SourceKey, Count | None]:
    found: dict[SourceKey, Count | None] = {}
    for node in nodes:
        if node.kind.name != "prepare":
            continue
        (binding,) = node.inputs["source"]
        if binding.declaration is None or source_key(binding, node.config) in found:
            continue
        config: Any = node.config
        declared = binding.declaration.value
        key = source_key(binding, config)
        found[key] = count_source(declared, config.max_prompt_chars, config.only_full, memory)
    return found


def _sealed(
    program: Program, to_make: list[int], sealed: frozenset[str], store: Store, memory: Memory
) -> dict[tuple[int, str], Count]:
    """Counts of the sealed artifacts that the nodes to make read."""
    found: dict[tuple[int, str], Count] = {}
    counted: dict[tuple[str, str], list[Count]] = {}
    keys = program.keys
    for binding in _read_by(program, to_make):
        index = binding.node
        if index is None or binding.port.type not in TEXTS or (index, binding.path) in found:
            continue
        node, key = program.graph.nodes[index], keys[index]
        if key not in sealed or not binding.path.endswith(".jsonl"):
            continue
        alike = counted.setdefault((node.stage, binding.path), [])
        if len(alike) < FIRST:
            one = count_rows(store.artifact(node.kind.name, key) / binding.path, memory)
            if one is not None:
                alike.append(replace(one, basis="counted in the store"))
                found[index, binding.path] = alike[-1]
        elif alike:
            found[index, binding.path] = alike[-1]
    return found


def _read_by(program: Program, indices: list[int]) -> list[Binding]:
    return [b for i in indices for bindings in program.graph.nodes[i].inputs.values() for b in bindings]


def _models(program: Program, memory: Memory) -> dict[str, Lm | None]:
    """Declared models, and the models of llms that run in a job."""
    declared = {name: d for name, d in program.spec.declarations.items() if d.value is not None}
    texts: list[str] | None = None
    found: dict[str, Lm | None] = {}
    for name, declaration in declared.items():
        model = declaration.value
        if declaration.section == "llms" and model.provider == "local":
            model = model.model
        if not isinstance(model, ModelDecl):
            continue
        size = size_of(model)
        if size is None:
            found[name] = None
            continue
        if texts is None:
            sources = (d.value for d in declared.values() if d.section == "sources")
            texts = next((t for t in map(sample_texts, sources) if t), [])
        found[name] = Lm(size, *characters_per_token(model, texts, memory))
    return found


def _prices(program: Program, tables: Tables) -> dict[str, Price | None]:
    llms = (d for d in program.spec.declarations.values() if d.section == "llms" and d.value is not None)
    return {d.name: price_of(d.value, tables) for d in llms}
