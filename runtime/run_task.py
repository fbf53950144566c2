"""Carry out one task of a submitted job: its descriptions in a row, each with a log of its own.

python -m runtime.run_task STORE JOB.json     (the array index is Slurm's)

Descriptions that JOB.json names by relative paths stand beside it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from runtime.files import read_json
from runtime.run_job import Interrupted, Outcome, run_job
from runtime.signals import HEARD, WARNING
from runtime.slurm.again import take_again
from runtime.slurm.requeue import take_another_turn
from runtime.store import Store

_PR_SET_PDEATHSIG = 1


def _log_to(path: Path, title: str) -> None:
    """Append everything that this process and its children print to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    print(
        f"== {time.strftime('%Y-%m-%d %H:%M:%S')} {title} ({os.uname().nodename}, pid {os.getpid()})",
        flush=True,
    )


def run_description(store_root: str, path: str) -> Outcome:
    """Run a described job in this process, output to its log."""
    store = Store(Path(store_root))
    description = read_json(Path(path))
    _log_to(store.log(description.get("asked", description["key"])), description["id"])
    return run_job(store, description)


def _end_with_runner() -> None:
    """Stop this process once its runner has gone, however that ended."""
    from multiprocessing import parent_process  # a task of Slurm's needs none of it

    runner = parent_process()
    if runner is not None:
        runner.join()
        os.kill(os.getpid(), signal.SIGTERM)


def run_child(store_root: str, path: str, environment: dict[str, str]) -> None:
    """The same, for a child of a runner: it ends with it, so that no work goes on unseen.

    The kernel tells of the death of the server that forked it, which lives on with its children; so the
    runner itself is watched too.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_end_with_runner, daemon=True).start()
    os.environ.update(environment)
    sys.exit(run_description(store_root, path))


def main() -> None:
    root, job = sys.argv[1:]
    store, further = Store(Path(root).absolute()), False
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    signal.signal(WARNING, lambda number, frame: HEARD.append(number))  # between two descriptions
    path = Path(job).absolute()
    names = read_json(path)["tasks"][index]
    for number, name in enumerate(names):
        description = read_json(path.parent / name)
        made, begun = store.locate(description["kind"], description["key"]) is not None, time.time()
        if HEARD:
            outcome = Interrupted(HEARD[0]).outcome
        else:
            outcome = run_description(str(store.root), str(path.parent / name))
        requeued = outcome is Outcome.WARNED and take_another_turn(store, description, further=further)
        if outcome in (Outcome.WARNED, Outcome.FAILED) and not requeued:
            left = [description, *(read_json(path.parent / n) for n in names[number + 1 :])]
            take_again(store, left, since=begun)
        if outcome is not Outcome.SEALED:
            sys.exit(outcome)
        further = further or not made


if __name__ == "__main__":
    main()
