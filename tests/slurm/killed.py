"""`alignc`, killed (-9) at the N-th step of a submission: before or after a file is written or sbatch called.

python -m tests.slurm.killed N submit SPEC ...
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from runtime.slurm import submission

_left = int(sys.argv.pop(1))


def _step() -> None:
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        _step()
        result = function(*args, **named)
        _step()
        return result

    return call


if __name__ == "__main__":
    from compiler.cli import main

    for name in ("write_json", "sbatch"):
        setattr(submission, name, _watched(getattr(submission, name)))
    main()
