"""The store: sealed artifacts by key, and the work in progress beside them.

    <store>/<kind>/<key>/        a sealed artifact: its files and manifest.json
    <store>/.work/<key>/         of an unsealed one: claim/, scratch/ (kept over tries), out.N/ (of try N)
    <store>/.trajectories/<key>/ state of a training, for those who go on from there: claim/, scratch/
    <store>/.realised/<key>.json under which key a job that came after a choice was sealed
    <store>/.logs/<key>.log      what the tries of a job printed
    <store>/.failures/<key>.json how the last try ended, where it failed
    <store>/.experiments/<name>/ descriptions of an experiment's jobs and tables

An artifact exists whole or not at all: its files are synced, its manifest is written last, and its
folder gets its final name by one rename. Works on NFS and Lustre.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.files import digest_file, read_json, sync, write_json

MANIFEST = "manifest.json"
SCHEMA = "alignc.artifact/1"


class Damaged(Exception):
    """A sealed artifact whose files no longer match its manifest."""


@dataclass(frozen=True, slots=True)
class Store:
    root: Path

    def artifact(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    def work(self, key: str) -> Path:
        return self.root / ".work" / key

    def claim_folder(self, key: str) -> Path:
        return self.work(key) / "claim"

    def progress(self, key: str) -> Path:
        return self.work(key) / "progress.json"

    def trajectory(self, key: str) -> Path:
        return self.root / ".trajectories" / key

    def realised(self, key: str) -> Path:
        return self.root / ".realised" / f"{key}.json"

    def log(self, key: str) -> Path:
        return self.root / ".logs" / f"{key}.log"

    def failure(self, key: str) -> Path:
        return self.root / ".failures" / f"{key}.json"

    def experiment(self, name: str) -> Path:
        return self.root / ".experiments" / name

    def has(self, kind: str, key: str) -> bool:
        return (self.artifact(kind, key) / MANIFEST).exists()

    def locate(self, kind: str, key: str) -> str | None:
        """The key under which an artifact is sealed: its own, or that which it turned out to have."""
        if self.has(kind, key):
            return key
        try:
            found: str = read_json(self.realised(key))["key"]
        except (OSError, ValueError, KeyError):
            return None
        return found if self.has(kind, found) else None

    def manifest(self, kind: str, key: str) -> dict[str, Any]:
        return read_json(self.artifact(kind, key) / MANIFEST)

    def trajectories(self) -> frozenset[str]:
        """Trajectories of which a state is kept."""
        return _names(self.root / ".trajectories")

    def realisations(self) -> frozenset[str]:
        """Keys of jobs that took, when they began, the key of what a choice had fallen on."""
        return frozenset(name.removesuffix(".json") for name in _names(self.root / ".realised"))

    def sealed(self) -> frozenset[str]:
        """Keys of all sealed artifacts: one listing a kind, no look at each (NFS)."""
        try:
            kinds = [e.path for e in os.scandir(self.root) if e.is_dir() and not e.name.startswith(".")]
        except FileNotFoundError:
            return frozenset()
        return frozenset(name for kind in kinds for name in os.listdir(kind))

    def working(self) -> frozenset[str]:
        """Keys that somebody has begun to work on."""
        return _names(self.root / ".work")

    def failures(self) -> frozenset[str]:
        """Keys whose last try failed."""
        return frozenset(name.removesuffix(".json") for name in _names(self.root / ".failures"))

    def verify(self, kind: str, key: str, *, digests: bool = False) -> None:
        """Raise Damaged unless every file has its sealed size (and, where asked, its digest)."""
        folder = self.artifact(kind, key)
        try:
            files = self.manifest(kind, key)["files"]
        except (OSError, ValueError, KeyError) as error:
            problem = f"cannot be read ({error})"
            raise Damaged(
                f"{folder / MANIFEST} {problem}: remove {folder}, and it will be made again"
            ) from error
        for file in files:
            path = folder / file["path"]
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                problem = "is missing or has another size than when it was sealed"
            elif digests and digest_file(path) != file["sha256"]:
                problem = "has changed since it was sealed"
            else:
                continue
            raise Damaged(f"{path} {problem}: remove {folder}, and it will be made again")

    def seal(self, kind: str, key: str, out: Path, manifest: Mapping[str, Any]) -> None:
        """Make `out` the artifact of `key`. Where another process was first, its artifact stays."""
        paths = sorted(p for p in out.rglob("*") if p.is_file())
        for path in paths:
            sync(path)
        files = [
            {"path": str(p.relative_to(out)), "bytes": p.stat().st_size, "sha256": digest_file(p)}
            for p in paths
        ]
        write_json(out / MANIFEST, {"schema": SCHEMA, **manifest, "files": files})
        for folder in [p for p in out.rglob("*") if p.is_dir()]:
            sync(folder)
        sync(out)
        final = self.artifact(kind, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            out.rename(final)
        except OSError:
            if not self.has(kind, key):
                raise
        sync(final.parent)

    def discard_work(self, key: str) -> None:
        """Remove the work of a sealed key; renamed first, so that nobody finds half of it."""
        grave = self.root / ".work" / f".{key}.{secrets.token_hex(4)}"
        try:
            self.work(key).rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True)


def _names(folder: Path) -> frozenset[str]:
    """The names in a folder; none where it is not there."""
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return frozenset()
