"""Where a value of a node's config is written: in the stage's body, its sweep, or an axis."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.frontend import interpolate
from compiler.frontend.source import Located
from compiler.frontend.spec import Spec
from compiler.graph import Node


def origin(spec: Spec, node: Node, path: Sequence[str]) -> Located | None:
    """The value at a path of config keys, filled in for this node; None where it is a default."""
    stage = spec.stages[node.stage]
    if path[0] in stage.sweep:
        values, wanted = stage.sweep[path[0]], node.axes.get(f"{node.stage}/{path[0]}")
        return next((v for v in values.elements if v.value == wanted), values)
    written, depth = stage.body.find(path)
    if not depth:
        return None
    chosen = {
        axis: next(v for v in spec.axes[axis] if v.label == label)
        for axis, label in node.axes.items()
        if axis in spec.axes
    }
    whole = all(name in chosen for name in interpolate.mentions(written))
    return interpolate.substitute(written, chosen) if whole else written
