"""A plan on file: what was looked at is what is carried out, or nothing is.

The file is the plan's JSON and beside it, under `promise`, what it was made from. Whoever carries it
out plans again and compares.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from compiler.output.emit import SCHEMA, plan_json
from compiler.planning.causes import causes, effects
from compiler.planning.plan import Plan
from compiler.site.profile import Profile
from runtime.files import read_json
from runtime.provenance import code_digest

SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a plan was asked for with, as given; relative paths are seen from `folder`."""

    folder: str
    spec: str
    store: str
    overrides: tuple[str, ...] = ()
    cluster: str | None = None
    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def promise_json(plan: Plan, arguments: Arguments, profile: Profile) -> dict[str, Any]:
    """The plan with all that is needed to see later whether it still holds."""
    told = {name: getattr(arguments, name) for name in Arguments.__slots__}
    identities = plan.program.identities
    return {
        **plan_json(plan),
        "promise": {
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
            "arguments": told,
            "code": code_digest(),
            "profile": profile.model_dump(mode="json"),
            "asked": {s.node.id: i.asked for s, i in zip(plan.steps, identities, strict=True)},
            "recipes": {i.asked: i.symbolic().recipe for i in identities},
        },
    }


def read_promise(path: Path) -> tuple[dict[str, Any], Arguments]:
    """A plan on file, and what it was asked for with. Raises UsageError where it is none."""
    try:
        told = read_json(path)
        if told["schema"] != SCHEMA:
            raise ValueError(told["schema"])
        given = told["promise"]["arguments"]
        lists: dict[str, Any] = {k: tuple(v) for k, v in given.items() if isinstance(v, list)}
        return told, Arguments(**{**given, **lists})
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        way_out = "`alignc plan SPEC --out plan.json` writes one"
        raise UsageError(f"{path} is not a plan that can be carried out; {way_out}") from error


def is_promise(path: Path) -> bool:
    """Whether a file is a plan, given where a spec is wanted."""
    try:
        told = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("schema") == SCHEMA


def broken(promised: Mapping[str, Any], plan: Plan, profile: Profile) -> list[str]:
    """What is not as the plan said, a line for each thing that moved; none where it holds."""
    told = promised["promise"]
    found: list[str] = []
    if told["code"] != code_digest():
        found.append("code: alignc itself is another version now")
    if told["profile"] != profile.model_dump(mode="json"):
        found.append("profile: the cluster profile was changed")
    return [*found, *_spec_moved(told, plan), *_store_moved(promised, plan)]


def _spec_moved(told: Mapping[str, Any], plan: Plan) -> list[str]:
    old = {id_: {"key": key, "recipe": told["recipes"][key]} for id_, key in told["asked"].items()}
    changed = [f"spec: {effect}" for effect in effects(causes(old, plan.program.symbolic()))]
    ids = {node.id: None for node in plan.program.graph.nodes}
    new, gone = [i for i in ids if i not in old], [i for i in old if i not in ids]
    changed += [f"spec: {_some(new)} not there"] if new else []
    changed += [f"spec: {_some(gone)} there, and now not"] if gone else []
    return changed


def _store_moved(promised: Mapping[str, Any], plan: Plan) -> list[str]:
    """Nodes of the same recipe with which something else would be done now."""
    asked = promised["promise"]["asked"]
    before: dict[str, str] = {node["id"]: node["action"] for node in promised["nodes"]}
    moved: dict[tuple[str, str], list[str]] = {}
    for index, (step, identity) in enumerate(zip(plan.steps, plan.program.identities, strict=True)):
        id_ = step.node.id
        if asked.get(id_) == identity.asked:
            shown = plan.selected is None or index in plan.selected
            old, new = WORDS[before.get(id_, "skip")], WORDS[step.action if shown else "skip"]
            if old != new:
                moved.setdefault((old, new), []).append(id_)
    return [f"store: {_some(ids)} {old}, and now {new}" for (old, new), ids in moved.items()]


WORDS = {
    "run": "to run",
    "rerun": "to run",
    "reuse": "sealed",
    "wait": "queued or running",
    "blocked": "blocked",
    "skip": "not selected",
}


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return f"{ids[0]}{more} {'were' if more else 'was'}"
