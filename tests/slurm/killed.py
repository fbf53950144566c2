"""`alignc`, killed (-9) at the N-th step of a submission: around each file written, each call of sbatch."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from compiler.cli import main
from runtime.slurm import submission
from runtime.stage import stage_kinds

# What `alignc submit` imports, once for all forks.
for _name in ("submitit", "compiler.planning.promise", "compiler.slurm.submission"):
    import_module(_name)
stage_kinds()
_left = 0


def killed(step: int, *words: str, cwd: Path) -> int:
    """Carry out `alignc` in a fork, which spares its start, and kill it at that step, if it gets so far.

    Returns its exit code, negative for a signal. Step 0 is never reached.
    """
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = _alignc(step, words, cwd)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _alignc(step: int, words: tuple[str, ...], cwd: Path) -> int:
    global _left
    _left = step
    os.chdir(cwd)
    for name in ("write_json", "sbatch"):
        setattr(submission, name, _watched(getattr(submission, name)))
    try:
        main([*words])
    except SystemExit as end:
        sys.stdout.flush()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


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
