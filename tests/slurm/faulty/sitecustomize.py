"""On PYTHONPATH, this makes rank 1 of a job called `...raises` fail in the middle of a training step."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _fail(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_name == "_gradients":
            raise ValueError("a fault of one rank")
        frame = frame.f_back


if os.environ.get("SLURM_JOB_NAME", "").endswith("raises") and os.environ.get("SLURM_PROCID") == "1":
    signal.signal(signal.SIGALRM, _fail)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # again and again: who is interrupted may catch it
