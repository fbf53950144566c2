"""What became of each job of an experiment: done, running, failed, blocked or not run, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from runtime.claims import owner_of
from runtime.files import read_json
from runtime.results.description import MemberSpec, NodeSpec
from runtime.spending import gpu_hours_of
from runtime.store import Store

Status = Literal["done", "running", "failed", "stopped", "blocked", "not run", "damaged"]
STATUSES: tuple[Status, ...] = ("done", "running", "failed", "stopped", "blocked", "damaged", "not run")
MESSAGE_LENGTH = 200
# How a try ended, as run_job records it -> what a reader of results is told.
OUTCOMES: dict[str, Status] = {
    "failed": "failed",
    "refused": "failed",
    "interrupted": "stopped",
    "warned": "stopped",
    "blocked": "blocked",
}


@dataclass(frozen=True)
class Job:
    """One job as the report shows it. `manifest` is empty unless the job is done."""

    id: str
    stage: str
    kind: str
    key: str
    place: str
    needs: tuple[str, ...]
    status: Status
    message: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """Status and message in one line: `failed: out of memory`, `blocked by label`."""
        if self.message.startswith("by "):
            return f"{self.status} {self.message}"
        return f"{self.status}: {self.message}" if self.message else self.status

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        return self.manifest.get("environment") or {}

    @cached_property
    def used(self) -> Mapping[str, Any]:
        return (self.manifest.get("resources") or {}).get("used") or {}

    @property
    def summary(self) -> Mapping[str, Any]:
        """Figures that the job told: counts, speeds, dollars."""
        return self.manifest.get("summary") or {}

    @property
    def adopted(self) -> Mapping[str, Any]:
        """Path, digest, user and time of an artifact that was made elsewhere; empty for all others."""
        return self.manifest.get("adopted") or {}

    @property
    def host(self) -> str:
        return self.environment.get("host") or ""

    @property
    def code_commit(self) -> str:
        """Commit of alignc that did the work; `+` where the code had been changed since."""
        return _commit(self.environment.get("alignc"))

    @property
    def spec_commit(self) -> str:
        return _commit(self.manifest.get("spec"))

    @property
    def started(self) -> float | None:
        return self.used.get("started")

    @property
    def wall_s(self) -> float | None:
        return self.used.get("wall_s")

    @property
    def gpu_hours(self) -> float:
        return gpu_hours_of(self.manifest)


def _commit(source: object) -> str:
    if not isinstance(source, Mapping) or not source.get("commit"):
        return ""
    return str(source["commit"])[:12] + ("+" if source.get("dirty") else "")


def one_line(text: object, length: int = MESSAGE_LENGTH) -> str:
    """The first line of a message, shortened."""
    line = next((line for line in str(text).splitlines() if line.strip()), "").strip()
    return line if len(line) <= length else line[: length - 1] + "…"


class _Survey:
    """Looks at each node once; the three listings are made once for all (NFS)."""

    def __init__(self, store: Store, nodes: Mapping[str, NodeSpec]) -> None:
        self.store, self.nodes = store, nodes
        self.sealed, self.failed = store.sealed(), store.failures()
        self.worked_on = _listing(store)
        self.found: dict[str, Job] = {}

    def job(self, name: str) -> Job:
        if name not in self.found:
            self.found[name] = self._look(self.nodes[name])
        return self.found[name]

    def _look(self, node: NodeSpec) -> Job:
        if node.key in self.sealed:
            return self._done(node)
        if node.key in self.worked_on and owner_of(self.store.claim_folder(node.key)):
            return _as_job(node, "running")
        if (node.asked or node.key) in self.failed:
            return self._failed(node)
        return self._absent(node)

    def _done(self, node: NodeSpec) -> Job:
        try:
            manifest = self.store.manifest(node.kind, node.key)
        except (OSError, ValueError) as error:
            return _as_job(node, "damaged", f"its manifest cannot be read ({type(error).__name__})")
        return _as_job(node, "done", manifest=manifest)

    def _failed(self, node: NodeSpec) -> Job:
        try:
            record = read_json(self.store.failure(node.asked or node.key))
        except (OSError, json.JSONDecodeError):  # mended or removed meanwhile
            return self._absent(node)
        return _as_job(
            node, OUTCOMES.get(record.get("outcome"), "failed"), one_line(record.get("message", ""))
        )

    def _absent(self, node: NodeSpec) -> Job:
        """A job that never began; blocked where a job that it needs, near or far, has come to nothing."""
        for name in node.needs:
            need = self.job(name) if name in self.nodes else None
            if need is None or need.status in ("done", "running", "not run"):
                continue
            cause = need.message if need.status == "blocked" else f"by {need.id} ({need.told})"
            return _as_job(node, "blocked", cause)
        return _as_job(node, "not run")


def _listing(store: Store) -> frozenset[str]:
    try:
        return frozenset(os.listdir(store.root / ".work"))
    except FileNotFoundError:
        return frozenset()


def _as_job(
    node: NodeSpec, status: Status, message: str = "", *, manifest: Mapping[str, Any] | None = None
) -> Job:
    return Job(
        node.id, node.stage, node.kind, node.key, node.place, node.needs, status, message, manifest or {}
    )


def survey(store: Store, nodes: Iterable[NodeSpec], members: Iterable[MemberSpec] = ()) -> dict[str, Job]:
    """The state of every node by its id; members that are no node of the list are looked at too."""
    known = {node.id: node for node in nodes}
    for member in members:
        if member.node not in known:
            known[member.node] = NodeSpec(
                id=member.node,
                stage=member.node.partition("[")[0],
                kind=member.kind,
                key=member.key,
                axes=member.axes,
                place=member.place,
            )
    look = _Survey(store, known)
    return {name: look.job(name) for name in known}
