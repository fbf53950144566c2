"""One rank of a training job, started by `runtime.training.ranks`.

python -m runtime.training.rank STORE DESCRIPTION.json MODULE:FUNCTION
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from runtime.files import read_json
from runtime.job import JobError, open_job
from runtime.signals import HEARD, STOPS
from runtime.store import Store
from runtime.training.line import DONE, FAILED, INTERRUPTED, REFUSED, Line

FROM_SLURM = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID"}


class _Stopped(BaseException):
    """This rank was asked to stop."""


def _stop(number: int, frame: FrameType | None) -> None:
    # Slurm may ask each rank too, and so twice: the second time changes nothing, the step is being finished.
    if frame is None or not HEARD:
        raise _Stopped


def _work(store: str, description: str, entry: str) -> tuple[int, str, str]:
    """Do this rank's work; returns how it ended: code, message, traceback."""
    try:
        from runtime.training.launch import find_entry  # slow: torch

        find_entry(entry)(open_job(Store(Path(store)), read_json(Path(description))))
    except _Stopped:
        return INTERRUPTED, "", ""
    except JobError as error:
        return REFUSED, str(error), traceback.format_exc()
    except (Exception, SystemExit) as error:
        return FAILED, f"{type(error).__name__}: {error}", traceback.format_exc()
    return DONE, "", ""


def main() -> None:
    for number in STOPS:
        signal.signal(number, _stop)
    for name, source in FROM_SLURM.items():
        os.environ.setdefault(name, os.environ.get(source, ""))
    line = Line(int(os.environ["RANK"]), os.environ.get("SLURMD_NODENAME", ""))
    end = _work(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    line.end(*end)
    # Other ranks may hang in a collective with this one, and so would the tidy end of its group.
    os._exit(0)


if __name__ == "__main__":
    main()
