"""What Slurm says of the jobs that were submitted to a store, by one squeue call."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from runtime.files import read_json
from runtime.store import Store


def _squeue() -> list[dict[str, str]]:
    """One call for all jobs of this user. Raises UsageError where Slurm does not answer."""
    fields = ("JobID", "ArrayJobID", "ArrayTaskID", "State", "Reason", "Comment")
    layout = ",".join(f"{f}:;" for f in fields)  # `:;` is a separator, and no width
    call = ["squeue", "--me", "--noheader", "--array", f"--Format={layout}"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"squeue does not answer: {error}") from error
    if done.returncode:
        raise UsageError(f"squeue failed: {done.stderr.strip()}")
    rows = (line.split(";") for line in done.stdout.splitlines() if line.strip())
    return [dict(zip(fields, (v.strip() for v in row), strict=False)) for row in rows]


ENDED = frozenset(
    (
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "REVOKED",
        "TIMEOUT",
    )
)


def submissions(store: Store) -> list[tuple[Path, dict[str, Any]]]:
    """The records of what was asked of Slurm and not yet forgotten by `queue`."""
    folder = store.root / ".submissions"
    return [(p, read_json(p)) for p in sorted(folder.glob("*.json"))] if folder.is_dir() else []


@dataclass(frozen=True, slots=True)
class Queued:
    """A task in the queue: its Slurm id (`12` or `12_3`), state and reason."""

    slurm_id: str
    state: str
    reason: str


def queue(store: Store) -> dict[str, Queued]:
    """Recipe key -> its task in the queue, for everything that was ever submitted to this store.

    Submissions whose jobs have left the queue are forgotten, except that of the last minute: a job
    may not be visible yet. Where there is no squeue the queue is unknown, and empty here.
    """
    known = submissions(store)
    if not known or shutil.which("squeue") is None:
        return {}
    by_token: dict[str, list[dict[str, str]]] = {}
    for row in _squeue():
        by_token.setdefault(row["Comment"].removeprefix("alignc:"), []).append(row)
    found: dict[str, Queued] = {}
    for path, told in known:
        rows = by_token.get(told["token"], [])
        if not rows and time.time() - told["time"] > 60:
            path.unlink(missing_ok=True)
        for row in rows:
            array = row["ArrayTaskID"].isdigit()
            index = int(row["ArrayTaskID"]) if array else 0
            if row["State"] not in ENDED and index < len(told["keys"]):
                slurm_id = f"{row['ArrayJobID']}_{index}" if array else row["JobID"]
                task = Queued(slurm_id, row["State"], row["Reason"])
                found |= dict.fromkeys(told["keys"][index], task)
    return found
