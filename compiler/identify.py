"""Graph -> recipe keys: what a node's result depends on, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compiler.graph import Binding, Graph
from runtime.fields import identity
from runtime.files import canonical, digest_text

# Raised when equal recipes would get other keys; a migration must then be written.
HASH_VERSION = 1
KEY_LENGTH = 40  # hexadecimal digits: 160 bits


@dataclass(frozen=True, slots=True)
class Identity:
    """A recipe, and the key that is its hash."""

    key: str
    recipe: Mapping[str, Any]


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
    graph: Graph, contents: Mapping[str, str], template_digest: Callable[[str], str]
) -> tuple[Identity, ...]:
    """Identities of all nodes, in their order.

    `contents` gives the fingerprint of the files behind a declaration, by its name, and
    `template_digest` the hash of a template that shapes a result. Names of stages,
    axes and declarations, places, resources and speed fields do not enter.
    """
    found: list[Identity] = []
    declared: dict[str, Any] = {}
    configs: dict[int, Any] = {}

    def source(binding: Binding) -> Any:
        if binding.node is None:
            return _declared(binding, contents, declared)
        return [found[binding.node].key, binding.path, binding.metric]

    for node in graph.nodes:
        if id(node.config) not in configs:
            configs[id(node.config)] = identity(node.config)
        templates = node.kind.templates(node.config, node.ports())
        recipe = {
            "hash": HASH_VERSION,
            "kind": node.kind.name,
            "version": node.kind.version,
            "config": configs[id(node.config)],
            "templates": {name: template_digest(name) for name in templates},
            "inputs": {name: [source(b) for b in bindings] for name, bindings in node.inputs.items()},
        }
        found.append(Identity(digest_text(canonical(recipe))[:KEY_LENGTH], recipe))
    return tuple(found)
