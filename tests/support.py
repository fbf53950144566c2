"""Helpers for tests: run one stage by hand, as the compiler would describe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.identity import recipe_key, trajectory_key
from runtime.run_job import Outcome, run_job
from runtime.stage import stage_kind
from runtime.store import Store


def declared(section: str, value: dict[str, Any], type_: str) -> dict[str, Any]:
    """An input record of a declaration (`models`, `sources`, `llms`)."""
    return {"type": type_, "name": "declared", "section": section, "declared": value}


def made(description: dict[str, Any], type_: str, path: str, metric: str = "", **axes: Any) -> dict[str, Any]:
    """An input record of an artifact that `describe` described and `run` sealed."""
    return {
        "type": type_,
        "name": description["stage"],
        "kind": description["kind"],
        "key": description["key"],
        "path": path,
        "metric": metric,
        "axes": axes,
    }


def describe(kind: str, config: dict[str, Any], inputs: dict[str, Any], **resources: Any) -> dict[str, Any]:
    """A job description; `inputs` maps a field to one input record or a list of them."""
    stage = stage_kind(kind)
    assert stage is not None
    records = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
    config = {"kind": kind, **dict.fromkeys(inputs, "x"), **config}
    sources = {
        name: [r if "declared" in r else [r["key"], r["path"], r.get("metric", "")] for r in found]
        for name, found in records.items()
    }
    recipe = {"kind": kind, "config": config, "inputs": sources}
    return {
        "schema": "alignc.job/1",
        "id": kind,
        "stage": kind,
        "kind": kind,
        "version": stage.version,
        "key": recipe_key(recipe),
        "recipe": recipe,
        "config": config,
        "inputs": records,
        "resources": {"cpus": 1, **resources},
        "axes": {},
    }


def scratch(store: Store, description: dict[str, Any]) -> Path:
    """Where a described training keeps its state."""
    return store.trajectory(trajectory_key(description["recipe"], "epochs")) / "scratch"


def run(store: Store, description: dict[str, Any]) -> Path:
    """Run a description to its seal; returns the artifact's folder."""
    outcome = run_job(store, description)
    assert outcome is Outcome.SEALED, outcome
    key = store.locate(description["kind"], description["key"])
    assert key is not None
    return store.artifact(description["kind"], key)
