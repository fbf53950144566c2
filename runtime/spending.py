"""What an experiment has spent in a store: GPU-hours and dollars of its sealed jobs and open ledgers.

An experiment's jobs are those that were described for it. Sealed artifacts never change, so what they
cost is remembered in one file; losing it costs time only. A try that was killed outright tells nobody
what it used: its GPU-hours are not counted, the dollars in its ledger are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.files import read_json, write_json
from runtime.job import JobError
from runtime.store import Store

REMEMBERED = "spent.json"
LEDGER = "ledger.jsonl"
GRANTED = "granted"  # dollars that a job may have spent by the time its requests are answered


@dataclass(frozen=True, slots=True)
class Spent:
    """Sums over an experiment; what jobs that are not sealed have spent also stands by key.

    held_usd: the most that jobs which are not sealed may spend beyond that, on requests under way.
    """

    gpu_hours: float = 0.0
    usd: float = 0.0
    unsealed_gpu_hours: Mapping[str, float] = field(default_factory=dict[str, float])
    unsealed_usd: Mapping[str, float] = field(default_factory=dict[str, float])
    held_usd: float = 0.0


Tails = dict[Path, tuple[int, float]]  # a ledger -> how far it was read, and the dollars until there


def spent(
    store: Store, experiment: str, *, remember: bool = False, tails: Tails | None = None, without: str = ""
) -> Spent:
    """What an experiment has spent; all zero where it never ran.

    remember: may write its memory. tails: ledgers read before, of which only what is new is read.
    without: a key whose own ledger is left out.
    """
    folder = store.experiment(experiment)
    try:
        keys = {name.removesuffix(".json") for name in os.listdir(folder / "nodes")}
    except OSError:
        return Spent()
    keys |= {read_json(store.realised(k))["key"] for k in keys & store.realisations()}
    sealed = _sealed(store, folder, keys, remember=remember)
    left = keys - sealed.keys()
    hours = {k: tried_gpu_hours(store, k) for k in left & store.failures()}
    tails = {} if tails is None else tails
    asking = (left & store.working()) - {without}
    usd = {k: _ledger(store.work(k) / "scratch" / LEDGER, tails) for k in asking}
    held = sum(max(0.0, _granted(store.work(k) / "scratch" / GRANTED) - usd[k]) for k in asking)
    return Spent(
        sum(each[0] for each in sealed.values()) + sum(hours.values()),
        sum(each[1] for each in sealed.values()) + sum(usd.values()),
        hours,
        usd,
        held,
    )


def _sealed(store: Store, folder: Path, keys: set[str], *, remember: bool) -> dict[str, list[float]]:
    """Key -> [GPU-hours, dollars] of the sealed jobs among `keys`; only new manifests are read."""
    known: dict[str, list[float]] = _read(folder / REMEMBERED) or {}
    found = {k: v for k, v in known.items() if k in keys}
    fresh = {
        k: _cost(store.artifact(kind, k)) for kind, k in _artifacts(store) if k in keys and k not in found
    }
    if fresh and remember:
        write_json(folder / REMEMBERED, {**found, **fresh}, durable=False)
    return {**found, **fresh}


def _artifacts(store: Store) -> list[tuple[str, str]]:
    kinds = [e.name for e in os.scandir(store.root) if e.is_dir() and not e.name.startswith(".")]
    return [(kind, key) for kind in kinds for key in os.listdir(store.root / kind)]


def _cost(artifact: Path) -> list[float]:
    manifest = _read(artifact / "manifest.json") or {}
    return [gpu_hours_of(manifest), (manifest.get("summary") or {}).get("dollars") or 0.0]


def gpu_hours_of(manifest: Mapping[str, Any]) -> float:
    """Those of tries that came to nothing too, and of GPUs that were paid for and idle."""
    resources = manifest.get("resources") or {}
    used, asked = resources.get("used") or {}, resources.get("asked") or {}
    hours: float = resources.get("gpu_hours", (asked.get("gpus") or 0) * (used.get("wall_s") or 0.0) / 3600)
    return hours


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _ledger(path: Path, tails: Tails) -> float:
    """Dollars of a ledger that a job may be writing to; the line being written is left for next time."""
    place, usd = tails.get(path, (0, 0.0))
    try:
        with path.open("rb") as file:
            if place > file.seek(0, os.SEEK_END):  # it was repaired meanwhile
                place, usd = 0, 0.0
            file.seek(place)
            for raw in file:
                if raw.endswith(b"\n"):
                    place, usd = place + len(raw), usd + _line(raw)
    except OSError:
        return 0.0
    tails[path] = place, usd
    return usd


def _granted(path: Path) -> float:
    """How far a job may go, as its purse has written it down."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0


def _line(raw: bytes) -> float:
    try:
        return float(json.loads(raw).get("cost_usd") or 0.0)
    except (ValueError, TypeError, AttributeError):
        return 0.0  # a damaged line, which will be asked again


# ---------------------------------------------------------------- in a job


def tried_gpu_hours(store: Store, key: str) -> float:
    """GPU-hours of the tries of a job that came to nothing."""
    return float((_read(store.failure(key)) or {}).get("gpu_hours") or 0.0)


def gpu_hours(store: Store, description: Mapping[str, Any], seconds: float) -> float:
    """GPU-hours of a job that has now run so long: this try, and those before it."""
    asked = description.get("asked", description["key"])
    return tried_gpu_hours(store, asked) + paid_gpus(description) * seconds / 3600


def paid_gpus(description: Mapping[str, Any]) -> float:
    """The GPUs that a job pays for: on whole nodes its share of all of theirs."""
    return float(description.get("paid_gpus", description["resources"].get("gpus")) or 0)


def require_gpu_hours(store: Store, description: Mapping[str, Any]) -> None:
    """Raise JobError where a job needs a GPU and its experiment has spent its budget of GPU-hours."""
    limit = (description.get("budget") or {}).get("gpu_hours")
    if limit is None or not paid_gpus(description):
        return
    used = spent(store, description["experiment"], remember=True).gpu_hours
    if used >= limit:
        raise JobError(
            f"the experiment has spent {used:.3g} GPU-hours, and its budget is {limit:g}: "
            "raise `budget.gpu_hours` and run or submit again"
        )
