"""The resume state of a run: sealed at once, found again strictly."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.files import read_json, sync, write_atomic, write_json
from runtime.job import REACHED, JobError
from runtime.training.folders import draft_of, open_draft, publish
from runtime.training.parallel import Backend, launch_shape

POSITION = "position.json"
BEGUN = "begun.json"
LOG = "training.jsonl"
_PREFIX = "resume-"


@dataclass(slots=True)
class Position:
    """How far a run is: optimizer steps done, and what they took (seconds by kind, tokens)."""

    step: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    useful: int = 0  # tokens of all sequences, on all ranks
    computed: int = 0  # tokens that this rank computed
    real: int = 0  # of these, tokens that were no filler

    def since(self, begun: Position) -> Position:
        """What was done after an earlier position."""
        seconds = {kind: spent - begun.seconds.get(kind, 0.0) for kind, spent in self.seconds.items()}
        counts = (getattr(self, name) - getattr(begun, name) for name in ("useful", "computed", "real"))
        return Position(self.step - begun.step, seconds, *counts)

    def spend(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds


def first_position(work: Path, now: Position) -> Position:
    """Where the first try of a job began; `work` is the job's own folder, `now` where this try begins."""
    path = work / BEGUN
    if not path.exists():
        write_json(path, asdict(now))
    return Position(**read_json(path))


def newest(scratch: Path) -> Path | None:
    """The folder of the last sealed state."""
    found = sorted(scratch.glob(f"{_PREFIX}*"))
    return found[-1] if found else None


def save(backend: Backend, scratch: Path, position: Position, data: str, epoch: int) -> None:
    """Seal a state within an epoch (counted from 1).

    Until its rename the one before is in force; its log is made durable first.
    """
    target = scratch / f"{_PREFIX}{position.step:09d}"
    if backend.rank == 0:
        open_draft(target)
    backend.barrier()
    backend.save_state(draft_of(target))
    backend.barrier()
    if backend.rank == 0:
        told = {"data": data, "launch": launch_shape(backend.config), "position": asdict(position)}
        write_json(draft_of(target) / POSITION, told)
        if (scratch / LOG).exists():
            sync(scratch / LOG)
        write_json(scratch / REACHED, {"reached": epoch})
        publish(target)
        for older in scratch.glob(f"{_PREFIX}*"):
            if older != target:
                shutil.rmtree(older, ignore_errors=True)
    backend.barrier()


def restore(backend: Backend, scratch: Path, data: str) -> Position:
    """Load the last sealed state, or start at step 0.

    Raises JobError where it was made by another launch shape or of other data.
    """
    folder = newest(scratch)
    if folder is None:
        return Position()
    told = read_json(folder / POSITION)
    _require_same(told, {"data": data, "launch": launch_shape(backend.config)}, folder)
    backend.load_state(folder)
    return Position(**told["position"])


def _require_same(told: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    way_out = f"or remove {folder} to start this run anew"
    if told["launch"] != wanted["launch"]:
        raise JobError(
            f"this run was begun as {_words(told['launch'])} and cannot go on as {_words(wanted['launch'])}: "
            f"set `parallel` back, {way_out}"
        )
    if told["data"] != wanted["data"]:
        raise JobError(
            f"the data or its tokens are not those this run was begun with: bring them back, {way_out}"
        )


def _words(shape: dict[str, Any]) -> str:
    return f"ZeRO-{shape['zero']} on {shape['processes']} processes" if shape["zero"] else "plain training"


def cut_log(scratch: Path, steps: int) -> None:
    """Drop the log's lines of steps after the resumed one: they will be done again."""
    path = scratch / LOG
    if not path.exists():
        return
    kept: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if len(kept) == steps or not line.endswith("\n"):
                break
            kept.append(line)
    if len(kept) < steps:
        raise RuntimeError(f"{path} has {len(kept)} lines, but {steps} steps were done")
    write_atomic(path, "".join(kept))
