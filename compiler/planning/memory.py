"""What an experiment's nodes were when it was last run or submitted: ids with their keys and recipes.

Kept as they are while no choice has been made: what a choice fell on is no change of the spec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from compiler.graph import Node
from compiler.planning.identify import Identity
from runtime.files import canonical, read_json, write_atomic
from runtime.store import Store

NAME = "last.json"
SCHEMA = "alignc.last/1"
# node id -> its key and recipe; and `real`, the key with choices followed, where that was known
Past = Mapping[str, Mapping[str, Any]]


def remember(store: Store, experiment: str, nodes: Iterable[tuple[Node, Identity]]) -> None:
    """Keep what these nodes are now, in graph order; what is known of others stays."""
    now: dict[str, Any] = {}
    for node, identity in nodes:
        asked = identity.symbolic()
        real = {"real": identity.key} if identity.key != asked.key else {}
        now[node.id] = {"key": asked.key, "recipe": asked.recipe, **real}
    told = {**remembered(store, experiment), **now}
    write_atomic(
        store.experiment(experiment) / NAME, canonical({"schema": SCHEMA, "nodes": told}), durable=False
    )


def remembered(store: Store, experiment: str) -> Past:
    """The nodes as they were; none where none are kept."""
    try:
        told = read_json(store.experiment(experiment) / NAME)
    except (OSError, ValueError):
        return {}
    return told["nodes"] if told.get("schema") == SCHEMA else {}
