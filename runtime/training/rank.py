"""One rank of a training job, started by `runtime.training.launch`.

python -m runtime.training.rank STORE DESCRIPTION.json MODULE:FUNCTION
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.files import read_json, write_json
from runtime.job import Job, JobError, open_job
from runtime.signals import STOPS
from runtime.store import Store
from runtime.training.launch import INTERRUPTED, REFUSED, find_entry

_PR_SET_PDEATHSIG = 1


class _Stopped(BaseException):
    """This rank was asked to stop."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ["ALIGNC_PARENT"]):
        sys.exit("the parent has ended already")


def _record(job: Job, error: Exception) -> None:
    rank = int(os.environ["RANK"])
    told: dict[str, Any] = {
        "rank": rank,
        "time": time.time(),
        "refused": isinstance(error, JobError),
        "message": str(error),
        "traceback": traceback.format_exc(),
    }
    write_json(job.scratch / f"failure-{rank}.json", told)


def main() -> int:
    _die_with_parent()
    for number in STOPS:
        signal.signal(number, _stop)
    store, description, entry = sys.argv[1:]
    job = open_job(Store(Path(store)), read_json(Path(description)))
    try:
        find_entry(entry)(job)
    except _Stopped:
        return INTERRUPTED
    except Exception as error:
        _record(job, error)
        return REFUSED if isinstance(error, JobError) else 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Other ranks may hang in a collective with this one, and so would the tidy end of its group.
    os._exit(code)
