"""Graph -> recipe keys: what a node's result depends on, and nothing else.

A node after a choice has two keys. `asked` names whatever the choice will fall on, and is known before
it is made. Once it is made, `key` is that of the same work on what was chosen: so a choice that falls
on the same candidate again re-runs nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compiler.graph import Binding, Graph
from runtime.fields import identity
from runtime.identity import HASH_VERSION, recipe_key, trajectory_key
from runtime.job import CHOICE

# (kind, key of a choice) -> the [key, path] that it fell on; None while it is not made
Chosen = Callable[[str, str], tuple[str, str] | None]


@dataclass(frozen=True, slots=True)
class Identity:
    """A recipe, and the key that is its hash.

    `asked` is the key as it was before any choice was made. `trajectory` is shared by runs that differ
    in their length alone.
    """

    key: str
    recipe: Mapping[str, Any]
    asked: str
    trajectory: str = ""


def nothing_chosen(kind: str, key: str) -> None:
    """For a graph on its own, without a store."""


def _declared(binding: Binding, contents: Mapping[str, str], memo: dict[str, Any]) -> Any:
    declaration = binding.declaration
    assert declaration is not None
    if declaration.name not in memo:
        memo[declaration.name] = {
            "declared": identity(declaration.value),
            "content": contents.get(declaration.name, ""),
        }
    return memo[declaration.name]


def identify(
    graph: Graph,
    contents: Mapping[str, str],
    template_digest: Callable[[str], str],
    chosen: Chosen = nothing_chosen,
) -> tuple[Identity, ...]:
    """Identities of all nodes, in their order.

    `contents` gives the fingerprint of the files behind a declaration, by its name, and
    `template_digest` the hash of a template that shapes a result. Names of stages,
    axes and declarations, places, resources and speed fields do not enter.
    """
    found: list[Identity] = []
    declared: dict[str, Any] = {}
    configs: dict[int, Any] = {}

    def source(binding: Binding) -> tuple[Any, Any]:
        """An input in a recipe: as it is known now, and as it was asked for."""
        if binding.node is None:
            record = _declared(binding, contents, declared)
            return record, record
        made = found[binding.node]
        known = (made.key, binding.path)
        if binding.path == CHOICE:
            known = chosen(graph.nodes[binding.node].kind.name, made.key) or known
        return [*known, binding.metric], [made.asked, binding.path, binding.metric]

    for node in graph.nodes:
        if id(node.config) not in configs:
            configs[id(node.config)] = identity(node.config)
        templates = node.kind.templates(node.config, node.ports())
        sources = {name: [source(b) for b in bindings] for name, bindings in node.inputs.items()}
        recipe = {
            "hash": HASH_VERSION,
            "kind": node.kind.name,
            "version": node.kind.version,
            "config": configs[id(node.config)],
            "templates": {name: template_digest(name) for name in templates},
            "inputs": {name: [known for known, _ in pairs] for name, pairs in sources.items()},
        }
        key = asked = recipe_key(recipe)
        before = {name: [asked for _, asked in pairs] for name, pairs in sources.items()}
        if before != recipe["inputs"]:
            asked = recipe_key({**recipe, "inputs": before})
        prefix = node.kind.prefix
        found.append(Identity(key, recipe, asked, trajectory_key(recipe, prefix) if prefix else ""))
    return tuple(found)
