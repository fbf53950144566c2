"""Recipe keys: the hash of what was asked for. Compiler and runtime compute it alike.

A recipe is {hash, kind, version, config, templates, inputs}; `inputs` holds for each field a list of
[key, path, metric] of a node's output, or {declared, content} of a declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.files import canonical, digest_text

# Raised when equal recipes would get other keys. What each version changed, and what becomes of the
# artifacts of the one before, is told in docs/keys.md.
HASH_VERSION = 1
KEY_LENGTH = 40  # hexadecimal digits: 160 bits


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """The key of a recipe."""
    return text_key(canonical(recipe))


def text_key(text: str) -> str:
    """The key of a recipe's canonical text."""
    return digest_text(text)[:KEY_LENGTH]


def trajectory_key(recipe: Mapping[str, Any], prefix: str) -> str:
    """The key that recipes share which differ in the field `prefix` alone.

    Two trainings of one trajectory take the same steps as far as the shorter one goes.
    """
    config = {name: value for name, value in recipe["config"].items() if name != prefix}
    return recipe_key({**recipe, "config": config})
