"""Carry out one task of a submitted job: its descriptions in a row, each with a log of its own.

python -m runtime.run_task STORE JOB.json [ARM]     (the array index is Slurm's)

Descriptions that JOB.json names by relative paths stand beside it. A task of several arms starts itself for
each of them (`runtime/slurm/beside.py`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.files import read_json
from runtime.run_job import Interrupted, Outcome, run_job
from runtime.signals import HEARD, STOPS, WARNING
from runtime.slurm.again import take_again
from runtime.slurm.beside import run_beside
from runtime.slurm.requeue import may_go_on, take_another_turn
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


def _end_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


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
    _end_with_parent()
    threading.Thread(target=_end_with_runner, daemon=True).start()
    os.environ.update(environment)
    sys.exit(run_description(store_root, path))


def _run_in_a_row(store: Store, folder: Path, names: Sequence[str], *, is_arm: bool) -> Outcome:
    """Run described jobs one after the other, as far as they are sealed.

    An arm only says whether it wants another turn: its task is requeued once all others have ended.
    """
    further = False
    for number, name in enumerate(names):
        description = read_json(folder / name)
        made, begun = store.locate(description["kind"], description["key"]) is not None, time.time()
        if HEARD:
            outcome = Interrupted(HEARD[0]).outcome
        else:
            outcome = run_description(str(store.root), str(folder / name))
        if is_arm and outcome is Outcome.WARNED:
            goes_on = may_go_on(store, description, further=further)
            return outcome if goes_on else Outcome.INTERRUPTED
        requeued = outcome is Outcome.WARNED and take_another_turn(store, description, further=further)
        if outcome in (Outcome.WARNED, Outcome.FAILED) and not requeued and not is_arm:
            left = [description, *(read_json(folder / n) for n in names[number + 1 :])]
            take_again(store, left, since=begun)
        if outcome is not Outcome.SEALED:
            return outcome
        further = further or not made
    return Outcome.SEALED


def main() -> None:
    root, job, *arm = sys.argv[1:]
    store, path = Store(Path(root).absolute()), Path(job).absolute()
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    work = read_json(path)["tasks"][index]
    if work and isinstance(work[0], list) and not arm:
        sys.exit(run_beside(store, path, work))
    signal.signal(WARNING, lambda number, frame: HEARD.append(number))  # between two descriptions
    if arm:
        _end_with_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        work = work[int(arm[0])]
    sys.exit(_run_in_a_row(store, path.parent, work, is_arm=bool(arm)))


if __name__ == "__main__":
    main()
