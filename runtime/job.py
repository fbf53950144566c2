"""One job as its stage sees it, read from the description that the compiler wrote."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from runtime import declare
from runtime.files import read_json, write_json
from runtime.stage import Resources, StageKind, stage_kind
from runtime.store import MANIFEST, Damaged, Store

SCHEMA = "alignc.job/1"
CHOICE = "choice.json"

# Section of the spec -> the type of its declarations.
DECLARED: dict[str, TypeAdapter[Any]] = {
    "models": TypeAdapter(declare.ModelDecl),
    "sources": TypeAdapter(declare.Source),
    "llms": TypeAdapter(declare.LLM),
    "wordings": TypeAdapter(declare.Wording),
}


class JobError(Exception):
    """What the user can mend: bad data, an impossible setting. Told without a traceback."""


class Blocked(Exception):
    """An input is missing or damaged, so the job cannot start."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input: either a declaration, or a file or folder of a sealed artifact.

    `axes` tells the candidate apart where a field receives many. `metric` is the field asked for
    of a Scores artifact. `manifest` is that of the artifact, after choices have been followed.
    """

    type: str
    name: str
    axes: Mapping[str, Any] = field(default_factory=dict)
    declared: Any = None
    folder: Path = Path()
    path: Path = Path()
    key: str = ""
    metric: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Job:
    """A description, opened: config validated, inputs found. `out` is sealed when `run` returns.

    `scratch` survives a try that failed or was killed; `out` is made anew for each try. Where the kind
    has a `prefix`, `scratch` belongs to the trajectory, and survives the job too.
    """

    id: str
    key: str
    kind: StageKind
    config: Any
    inputs: Mapping[str, tuple[Input, ...]]
    resources: Resources
    root: Path
    out: Path
    scratch: Path
    description: Mapping[str, Any]
    summary: dict[str, Any] = field(default_factory=dict)
    _told: float = 0.0

    def input(self, name: str) -> Input:
        """The one input of a field."""
        (only,) = self.inputs[name]
        return only

    def optional(self, name: str) -> Input | None:
        found = self.inputs.get(name, ())
        return found[0] if found else None

    def report(self, **figures: Any) -> None:
        """Figures that the manifest shall tell: counts, speeds, losses, dollars. Never part of a key."""
        self.summary.update(figures)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Tell watchers how far the job is; cheap enough to be called at every step."""
        now = time.monotonic()
        if done < total and now - self._told < 1.0:
            return
        self._told = now
        record = {"done": done, "total": total, "text": text, "time": time.time()}
        asked = self.description.get("asked", self.key)
        write_json(Store(self.root).progress(asked), record, durable=False)


REACHED = "reached.json"
SCRATCH = "scratch"


def reached(scratch: Path) -> float:
    """How far the trajectory in a scratch folder has gone, in units of its kind's prefix field."""
    try:
        return float(read_json(scratch / REACHED)["reached"])
    except (OSError, ValueError, KeyError):
        return 0.0


def follow(store: Store, kind: str, key: str, path: str) -> tuple[str, str, str]:
    """The (kind, key, path) that an output stands for: the artifact as sealed, choices followed.

    Raises Blocked where it is not there, or damaged.
    """
    found = store.locate(kind, key)
    if found is None:
        folder = store.artifact(kind, key)
        if folder.exists():
            raise Blocked(f"{folder} has no {MANIFEST}: remove it, and it will be made again")
        raise Blocked(f"the input {kind}/{key} is not there")
    _guard(store, kind, found)
    if path != CHOICE:
        return kind, found, path
    chosen = read_json(store.artifact(kind, found) / CHOICE)["chosen"]
    return follow(store, chosen["kind"], chosen["key"], chosen["path"])


def _guard(store: Store, kind: str, key: str) -> None:
    try:
        store.verify(kind, key)
    except Damaged as error:
        raise Blocked(str(error)) from error


def _open_input(store: Store, record: Mapping[str, Any]) -> Input:
    common = {"type": record["type"], "name": record["name"], "axes": record.get("axes", {})}
    if "declared" in record:
        value = DECLARED[record["section"]].validate_python(record["declared"])
        return Input(**common, declared=value)
    kind, key, path = follow(store, record["kind"], record["key"], record["path"])
    folder = store.artifact(kind, key)
    return Input(
        **common,
        folder=folder,
        path=folder / path,
        key=key,
        metric=record.get("metric", ""),
        manifest=store.manifest(kind, key),
    )


def open_job(store: Store, description: Mapping[str, Any]) -> Job:
    """Open a description; `scratch` in it overrides the usual folder.

    Raises Blocked where an input is missing or damaged.
    """
    kind = stage_kind(description["kind"])
    if kind is None or kind.version != description["version"]:
        raise JobError(
            f"this installation has no stage kind {description['kind']} version {description['version']}"
        )
    inputs = {
        name: tuple(_open_input(store, record) for record in records)
        for name, records in description["inputs"].items()
    }
    work = store.work(description["key"])
    return Job(
        id=description["id"],
        key=description["key"],
        kind=kind,
        config=kind.config.model_validate(description["config"], by_alias=False, by_name=True),
        inputs=inputs,
        resources=Resources.model_validate(description["resources"]),
        root=store.root,
        out=work / "out",
        scratch=Path(description.get("scratch", work / SCRATCH)),
        description=description,
    )
