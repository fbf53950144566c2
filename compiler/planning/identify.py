"""Graph -> recipe keys: what a node's result depends on, and nothing else.

A node after a choice has two keys. `asked` names whatever the choice will fall on, and is known before
it is made. Once it is made, `key` is that of the same work on what was chosen: so a choice that falls
on the same candidate again re-runs nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from compiler.graph import Binding, Graph, Node
from runtime.fields import identifying, identity
from runtime.files import canonical
from runtime.identity import HASH_VERSION, text_key, trajectory_key
from runtime.job import CHOICE
from runtime.stage import StageKind

# (kind, key of a choice) -> the [key, path] that it fell on; None while it is not made
Chosen = Callable[[str, str], tuple[str, str] | None]


@dataclass(frozen=True, slots=True)
class Identity:
    """A recipe, and the key that is its hash.

    `asked` is the key as it was before any choice was made. `prefix` is that of the kind.
    """

    key: str
    recipe: Mapping[str, Any]
    asked: str
    prefix: str = ""
    asked_recipe: Mapping[str, Any] | None = None  # where choices have made it another

    def symbolic(self) -> Identity:
        """As if no choice had been made."""
        recipe = self.recipe if self.asked_recipe is None else self.asked_recipe
        return Identity(self.asked, recipe, self.asked, self.prefix)

    @property
    def trajectory(self) -> str:
        """Shared by runs that differ in their length alone; empty for what is no run."""
        return trajectory_key(self.recipe, self.prefix) if self.prefix else ""


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
    parts: dict[tuple[int, tuple[str, ...]], _Part] = {}
    moved: set[int] = set()  # nodes that stand for another key, or have chosen one, than was asked for

    @cache
    def about(kind: StageKind, templates: tuple[str, ...]) -> tuple[Mapping[str, Any], str]:
        """What recipes say of a kind, and its canonical text."""
        digests = {name: template_digest(name) for name in templates}
        told = {"kind": kind.name, "templates": digests, "version": kind.version}
        return told, canonical(told)

    @cache
    def choice(index: int) -> tuple[str, str] | None:
        return chosen(graph.nodes[index].kind.name, found[index].key)

    def known(binding: Binding) -> Any:
        """An input in a recipe, as it is known now."""
        if binding.node is None:
            return _declared(binding, contents, declared)
        if binding.path == CHOICE and (fallen := choice(binding.node)):
            moved.add(binding.node)
            return [*fallen, binding.metric]
        return [found[binding.node].key, binding.path, binding.metric]

    def asked_for(binding: Binding) -> Any:
        """An input in a recipe, as it was asked for."""
        if binding.node is None:
            return _declared(binding, contents, declared)
        return [found[binding.node].asked, binding.path, binding.metric]

    for index, node in enumerate(graph.nodes):
        memo = id(node.config), node.templates
        part = parts.get(memo)
        if part is None:
            part = parts[memo] = _part(node, *about(node.kind, node.templates))
        read = [(name, node.inputs[name]) for name in identifying(type(node.config)) if name in node.inputs]
        inputs = {name: [known(b) for b in bindings] for name, bindings in read}
        key = asked = part.key(inputs)
        asked_recipe = None
        if moved and not moved.isdisjoint(node.reads):
            before = {name: [asked_for(b) for b in bindings] for name, bindings in read}
            asked, asked_recipe = part.key(before), {**part.recipe, "inputs": before}
            moved.add(index)
        recipe = {**part.recipe, "inputs": inputs}
        found.append(Identity(key, recipe, asked, node.kind.prefix, asked_recipe))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Part:
    """A recipe without its inputs, which many nodes share; `before` and `after` are its canonical text."""

    recipe: Mapping[str, Any]
    before: str
    after: str

    def key(self, inputs: Mapping[str, Any]) -> str:
        """See runtime.identity.recipe_key."""
        return text_key(f"{self.before}{canonical(inputs)}{self.after}")


def _part(node: Node, about: Mapping[str, Any], about_text: str) -> _Part:
    config = identity(node.config)
    # Keys of a canonical text are sorted: config and hash stand before inputs, the rest after it.
    before = f'{{"config":{canonical(config)},"hash":{HASH_VERSION},"inputs":'
    return _Part({"hash": HASH_VERSION, "config": config, **about}, before, f",{about_text[1:]}")
