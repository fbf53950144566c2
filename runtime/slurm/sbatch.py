"""One sbatch call, through submitit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What sbatch says where a limit on the number of jobs is reached, or slurmctld did not answer: no fault of
# the job's.
FULL = (
    "SubmitJob",
    "job submit limit",
    "temporarily unable",
    "Resource temporarily unavailable",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Unable to contact slurm controller",
    "Connection refused",
)


class Refused(Exception):
    """sbatch took no job; the message is what it said."""

    @property
    def full(self) -> bool:
        """Whether the same call may be taken once other jobs have ended."""
        return any(words in str(self) for words in FULL)


@contextmanager
def outside_any_job() -> Iterator[None]:
    """Submitting from inside a job must not hand that job's SLURM_* settings on."""
    inherited = dict(os.environ)
    if "SLURM_JOB_ID" in inherited:
        for name in inherited:
            if name.startswith(("SLURM_", "SBATCH_", "SRUN_")) and name != "SLURM_CONF":
                del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(inherited)


def _executor(folder: Path, text: str, options: Sequence[str]) -> Any:
    """A submitit executor that submits our text with our options."""
    import submitit

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc]
        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return text

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            return ["sbatch", *options, str(submission_file_path)]

        def _num_tasks(self) -> int:
            return 1

    return Executor(folder)


def sbatch(folder: Path, text: str, options: Sequence[str]) -> str:
    """Submit a script, which is kept in `folder`; returns the Slurm id. Raises Refused."""
    from submitit.core.utils import FailedJobError

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with outside_any_job():
            return str(_executor(folder, text, options)._submit_command("").job_id)
    except FailedJobError as error:
        raise Refused(str(error)) from error
