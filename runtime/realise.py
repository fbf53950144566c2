"""What a job's inputs turned out to be: choices followed, and the job's key found anew from them.

A node after a choice is described before the choice is made. Its key then stands for whatever is
chosen. When the job starts the choice is known, and the job takes the key of what it really does:
the same key that it would have if the spec named the chosen one. Where that has been made already,
nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.identity import recipe_key
from runtime.job import follow
from runtime.store import Store


def _realise_input(store: Store, record: Mapping[str, Any]) -> dict[str, Any]:
    if "declared" in record:
        return dict(record)
    kind, key, path = follow(store, record["kind"], record["key"], record["path"])
    return {**record, "kind": kind, "key": key, "path": path}


def realise(store: Store, description: Mapping[str, Any]) -> dict[str, Any]:
    """The description with real inputs, and the key and recipe that follow; `asked` is the key before.

    Raises Blocked where an input is not there, or damaged.
    """
    inputs = {
        name: [_realise_input(store, record) for record in records]
        for name, records in description["inputs"].items()
    }
    told = {**description, "inputs": inputs, "asked": description.get("asked", description["key"])}
    if inputs == description["inputs"]:
        return told
    recipe = {
        **description["recipe"],
        "inputs": {
            name: [_source(*pair) for pair in zip(known, inputs[name], strict=True)]
            for name, known in description["recipe"]["inputs"].items()
        },
    }
    return {**told, "recipe": recipe, "key": recipe_key(recipe)}


def _source(known: Any, record: Mapping[str, Any]) -> Any:
    """An input as it stands in a recipe."""
    return known if "declared" in record else [record["key"], record["path"], record.get("metric", "")]
