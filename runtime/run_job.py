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
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.claims import Claim, ClaimLost, try_claim
from runtime.files import read_json, write_json
from runtime.job import Blocked, Job, JobError, open_job
from runtime.provenance import Meter, environment
from runtime.spending import gpu_hours, require_gpu_hours
from runtime.store import Store

POLL_S = 0.5
STOPS = (signal.SIGTERM, signal.SIGINT)


class Outcome(IntEnum):
    """How a job ended; the exit code of its process."""

    SEALED = 0
    FAILED = 1  # an exception: a defect of the code or the machine
    REFUSED = 3  # what the user can mend: data, settings
    BLOCKED = 4  # an input is missing or damaged
    INTERRUPTED = 5  # asked to stop; goes on from its last checkpoint


class Interrupted(BaseException):
    """The process was asked to stop (TERM, INT); not an Exception, so that no stage swallows it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in STOPS:  # one request is enough: what cleans up shall not be interrupted in its turn
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


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


def _wait_for_claim(store: Store, kind: str, key: str) -> Claim | None:
    """The claim of a key, or None where another process sealed it meanwhile."""
    told = False
    while not store.has(kind, key):
        claim = try_claim(store.claim_folder(key), lost=_stop_oneself)
        if claim is not None:
            if not store.has(kind, key):
                return claim
            claim.release()
            return None
        if not told:
            print(f"{key[:12]}: another process is at work on this; waiting for it", flush=True)
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
        "id": job.id,
        "config": told["config"],
        "inputs": told["inputs"],
        "spec": told.get("spec"),
        "environment": environment(),
        "resources": {
            "asked": told["resources"],
            "used": used,
            "gpu_hours": gpu_hours(store, told, used["wall_s"]),
        },
        "summary": job.summary,
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


def _record_failure(
    store: Store, description: Mapping[str, Any], outcome: Outcome, message: str, trace: str, seconds: float
) -> None:
    record = {
        "id": description["id"],
        "key": description["key"],
        "outcome": outcome.name.lower(),
        "message": message,
        "traceback": trace,
        "time": time.time(),
        "host": socket.gethostname(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "gpu_hours": gpu_hours(store, description, seconds),
    }
    write_json(store.failure(description["key"]), record)


def _attempt(store: Store, description: Mapping[str, Any], claim: Claim) -> Outcome:
    started = time.time()
    try:
        _work(store, description, claim)
    except Blocked as error:
        outcome, message, trace = Outcome.BLOCKED, str(error), ""
    except JobError as error:
        outcome, message, trace = Outcome.REFUSED, str(error), ""
    except Interrupted as error:
        outcome, message, trace = Outcome.INTERRUPTED, f"stopped by {error}", ""
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
    kind, key = description["kind"], description["key"]
    claim = _wait_for_claim(store, kind, key)
    if claim is None:
        print(f"{description['id']}: already sealed", flush=True)
        outcome = Outcome.SEALED
    else:
        _limit_threads(description["resources"]["cpus"])
        try:
            outcome = _attempt(store, description, claim)
        finally:
            claim.release()
        if store.has(kind, key):  # by another, too, that took this one for dead
            outcome = Outcome.SEALED
    if outcome is Outcome.SEALED:
        store.failure(key).unlink(missing_ok=True)
        store.discard_work(key)
    return outcome


def run_job(store: Store, description: Mapping[str, Any]) -> Outcome:
    """Carry out a described job in this process, unless its artifact is there or being made."""
    with _interruptible():
        try:
            return _claim_and_run(store, description)
        except Interrupted:  # outside the work itself: before it began, or after it was sealed
            sealed = store.has(description["kind"], description["key"])
            return Outcome.SEALED if sealed else Outcome.INTERRUPTED


def main() -> None:
    store, path = sys.argv[1:]
    sys.exit(run_job(Store(Path(store)), read_json(Path(path))))


if __name__ == "__main__":
    main()
