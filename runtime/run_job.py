"""Carry out one job: claim its key, guard its inputs, do the work, seal the output.

    python -m runtime.run_job STORE DESCRIPTION.json

Exits with a code of `Outcome`. Whoever is killed at any moment leaves no artifact, or a whole one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.claims import Claim, ClaimLost, try_claim
from runtime.files import read_json, write_json
from runtime.identity import trajectory_key
from runtime.job import SCRATCH, Blocked, Job, JobError, open_job, reached
from runtime.provenance import Meter, environment
from runtime.realise import realise
from runtime.signals import STOPS, WARNING
from runtime.slurm.again import adjusted
from runtime.spending import gpu_hours, require_gpu_hours
from runtime.stage import stage_kind
from runtime.store import Store

POLL_S = 0.5


class Outcome(IntEnum):
    """How a job ended; the exit code of its process."""

    SEALED = 0
    FAILED = 1  # an exception: a defect of the code or the machine
    REFUSED = 3  # what the user can mend: data, settings
    BLOCKED = 4  # an input is missing or damaged
    INTERRUPTED = 5  # asked to stop; goes on from its last checkpoint
    WARNED = 6  # the same, and asks for another turn: its time was about to end


class Interrupted(BaseException):
    """The process was asked to stop; not an Exception, so that no stage swallows it."""

    def __init__(self, number: int) -> None:
        warned = number == WARNING
        self.outcome = Outcome.WARNED if warned else Outcome.INTERRUPTED
        name = signal.Signals(number).name
        super().__init__(f"warned by {name} that its time ends" if warned else f"stopped by {name}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in STOPS:  # one request is enough: what cleans up shall not be interrupted in its turn
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Requests to stop raise Interrupted here; only the main thread can hear them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_oneself() -> None:
    """Somebody else does this work now: stop before both write to its scratch folder."""
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_claim(folder: Path, what: str, done: Callable[[], bool]) -> Claim | None:
    """The claim of a folder, or None where another process did the work meanwhile."""
    told = False
    while not done():
        claim = try_claim(folder, lost=_stop_oneself)
        if claim is not None:
            if not done():
                return claim
            claim.release()
            return None
        if not told:
            print(f"{what}: another process is at work on this; waiting for it", flush=True)
            told = True
        time.sleep(POLL_S)
    return None


def _limit_threads(cpus: int) -> None:
    """One number of threads for every library, wherever the job runs: the bits depend on it."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(cpus)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "torch" in sys.modules:  # imported before the fork
        sys.modules["torch"].set_num_threads(cpus)


def _manifest(store: Store, job: Job, meter: Meter) -> dict[str, Any]:
    told = job.description
    used = meter.read()
    return {
        "kind": job.kind.name,
        "key": job.key,
        "recipe": told["recipe"],
        "experiment": told.get("experiment"),
        "id": job.id,
        "config": told["config"],
        "inputs": told["inputs"],
        "spec": told.get("spec"),
        "environment": environment(),
        "resources": {
            "asked": told["resources"],
            "used": used,
            "gpu_hours": gpu_hours(store, told, used["wall_s"]),
            **({"estimated": told["estimated"]} if "estimated" in told else {}),
        },
        "summary": job.summary,
        **({"again": told["again"]} if "again" in told else {}),
    }


def _work(store: Store, description: Mapping[str, Any], claim: Claim) -> None:
    meter = Meter()
    require_gpu_hours(store, description)
    job = open_job(store, description)
    for old in job.out.parent.glob(f"{job.out.name}*"):
        shutil.rmtree(old, ignore_errors=True)
    # A name of its own for each try: one that was taken for dead cannot write into the next one's.
    job.out = job.out.with_name(f"{job.out.name}.{claim.generation}")
    job.out.mkdir(parents=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    job.kind.run(job)
    claim.check()
    store.seal(job.kind.name, job.key, job.out, _manifest(store, job, meter))


def _repeats(store: Store, key: str, trace: str) -> int:
    """How often in a row, this time included, a job has ended with a traceback."""
    with contextlib.suppress(OSError, ValueError):
        before = read_json(store.failure(key))
        if trace and before["traceback"] == trace:
            return int(before.get("repeats", 1)) + 1
    return 1


def _record_failure(
    store: Store, description: Mapping[str, Any], outcome: Outcome, message: str, trace: str, seconds: float
) -> None:
    key = description.get("asked", description["key"])
    record = {
        "id": description["id"],
        "key": key,
        "outcome": outcome.name.lower(),
        "message": message,
        "traceback": trace,
        "repeats": _repeats(store, key, trace),
        "time": time.time(),
        "host": socket.gethostname(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "gpu_hours": gpu_hours(store, description, seconds),
    }
    write_json(store.failure(key), record)


@contextlib.contextmanager
def _on_trajectory(store: Store, description: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The description with the scratch folder of its trajectory, which is nobody else's meanwhile.

    A trajectory that has gone further already is of no use: the job then starts in a folder of its own.
    """
    kind = stage_kind(description["kind"])
    if kind is None or not kind.prefix:
        yield description
        return
    name = trajectory_key(description["recipe"], kind.prefix)
    folder = store.trajectory(name)
    claim = _wait_for_claim(folder / "claim", f"trajectory {name[:12]}", lambda: False)
    assert claim is not None
    try:
        too_far = reached(folder / SCRATCH) > description["config"][kind.prefix]
        yield description if too_far else {**description, "scratch": str(folder / SCRATCH)}
    finally:
        claim.release()


def _attempt(store: Store, description: Mapping[str, Any], claim: Claim) -> Outcome:
    started = time.time()
    try:
        with _on_trajectory(store, description) as placed:
            _work(store, placed, claim)
    except Blocked as error:
        outcome, message, trace = Outcome.BLOCKED, str(error), ""
    except JobError as error:
        outcome, message, trace = Outcome.REFUSED, str(error), ""
    except Interrupted as error:
        outcome, message, trace = error.outcome, str(error), ""
    except ClaimLost as error:
        outcome, message, trace = Outcome.INTERRUPTED, str(error), ""
    except (Exception, SystemExit) as error:
        outcome, message = Outcome.FAILED, f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
    else:
        return Outcome.SEALED
    print(trace or message, file=sys.stderr, flush=True)
    if claim.held():  # else the key's next owner tells how it ends
        _record_failure(store, description, outcome, message, trace, time.time() - started)
    return outcome


def _claim_and_run(store: Store, description: Mapping[str, Any]) -> Outcome:
    asked = {description["key"], description.get("asked", description["key"])}
    if store.locate(description["kind"], description["key"]):
        return _sealed(store, description, asked, by_others=True)
    try:
        description = realise(store, description)
    except Blocked as error:
        print(error, file=sys.stderr, flush=True)
        _record_failure(store, description, Outcome.BLOCKED, str(error), "", 0.0)
        return Outcome.BLOCKED
    description = adjusted(store, description)
    kind, key = description["kind"], description["key"]
    for each in asked - {key}:  # at once, so that whoever sums up what is spent finds its ledger
        write_json(store.realised(each), {"key": key})
    claim = _wait_for_claim(store.claim_folder(key), key[:12], lambda: store.has(kind, key))
    if claim is not None:
        _limit_threads(description["resources"]["cpus"])
        try:
            outcome = _attempt(store, description, claim)
        finally:
            claim.release()
        if not store.has(kind, key):  # another may have made it that took this one for dead
            return outcome
    return _sealed(store, description, asked | {key}, by_others=claim is None)


def _sealed(store: Store, description: Mapping[str, Any], keys: set[str], *, by_others: bool) -> Outcome:
    """Clean up behind a sealed artifact, which others may have made."""
    if by_others:
        print(f"{description['id']}: already sealed", flush=True)
    for key in keys:
        store.failure(key).unlink(missing_ok=True)
        store.discard_work(key)
    return Outcome.SEALED


def run_job(store: Store, description: Mapping[str, Any]) -> Outcome:
    """Carry out a described job in this process, unless its artifact is there or being made."""
    with _interruptible():
        try:
            return _claim_and_run(store, description)
        except Interrupted as stop:  # outside the work itself: before it began, or after it was sealed
            sealed = store.locate(description["kind"], description["key"])
            return Outcome.SEALED if sealed else stop.outcome


def main() -> None:
    store, path = sys.argv[1:]
    sys.exit(run_job(Store(Path(store)), read_json(Path(path))))


if __name__ == "__main__":
    main()
