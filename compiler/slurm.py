"""The Slurm backend: sbatch text as a pure function, and one squeue call."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.cluster import Profile
from compiler.describe import description_path
from compiler.errors import UsageError
from compiler.plan import JobGroup, Plan
from runtime.files import read_json
from runtime.stage import Resources
from runtime.store import Store
from runtime.submission import CARRIER_MINUTES, TOKEN, dependency, job_file, scripts
from runtime.templates import fill


@dataclass(frozen=True, slots=True)
class Script:
    """One sbatch call: its options and its text, with `TOKEN` where the token will stand, and its tasks."""

    job: JobGroup
    text: str
    options: tuple[str, ...]
    tasks: tuple[tuple[str, ...], ...]  # descriptions of each task, to be carried out in a row

    def call(self, path: str) -> list[str]:
        return ["sbatch", *self.options, path]


def throttle(job: JobGroup, profile: Profile) -> int | None:
    """Most tasks of a job at once, from the profile's tasks and GPUs; None: no limit."""
    by_gpus = profile.max_gpus and job.resources.gpus and max(1, profile.max_gpus // job.resources.gpus)
    return min(filter(None, (profile.parallel_tasks, by_gpus)), default=None)


def script_text(job: JobGroup, profile: Profile, *, token: str, logs: str, work: str) -> str:
    """The sbatch text of a job. `logs` is the folder of its output, `work` the shell text of one task."""
    return fill(
        "sbatch.sh.j2",
        job=job,
        profile=profile.model_copy(update={"parallel_tasks": throttle(job, profile)}),
        token=token,
        memory_mib=round(job.resources.memory_gb * 1024),
        output=f"{logs}/" + ("%x-%A_%a.out" if job.array else "%x-%j.out"),
        work=work,
    )


def make_script(
    plan: Plan, job: JobGroup, profile: Profile, store: Store, ids: Mapping[str, str] | None = None
) -> Script:
    """The sbatch call of a job; `ids` names the Slurm jobs of those it comes after, where they are known."""
    tasks = tuple(
        tuple(str(description_path(store, plan.program, plan.steps[i].key)) for i in task)
        for task in job.tasks
    )
    work = _module(profile, "runtime.run_task", store, str(job_file(store, TOKEN)))
    after = [*job.after_slurm, *(ids[name] for name in job.after)] if ids else []
    return Script(job, _text(job, profile, store, work), dependency(after), tasks)


def carrier_text(experiment: str, profile: Profile, store: Store) -> str:
    """The script of the job that goes on with submission, `TOKEN` in it."""
    resources = Resources(cpus=1, memory_gb=1, minutes=CARRIER_MINUTES)
    job = JobGroup(f"{experiment}.carrier", ((),), resources, 1, (), ())
    return _text(job, profile, store, _module(profile, "runtime.submission", store))


def _module(profile: Profile, name: str, store: Store, *words: str) -> str:
    return shlex.join(["exec", profile.python or sys.executable, "-m", name, str(store.root), *words])


def _text(job: JobGroup, profile: Profile, store: Store, work: str) -> str:
    return script_text(job, profile, token=TOKEN, logs=str(scripts(store)), work=work)


def preview(plan: Plan, profile: Profile, store: Store) -> Iterator[tuple[Script, str]]:
    """Every sbatch call that `submit` would make if all fits, with its command line; touches nothing."""
    ids = {job.name: f"<id of {job.name}>" for job in plan.jobs}
    for job in plan.jobs:
        script = make_script(plan, job, profile, store, ids)
        yield script, " ".join(script.call(f"{job.name}.sh"))


# ---------------------------------------------------------------- the queue


def _squeue() -> list[dict[str, str]]:
    """One call for all jobs of this user. Raises UsageError where Slurm does not answer."""
    fields = ("JobID", "ArrayJobID", "ArrayTaskID", "State", "Reason", "Comment")
    layout = ",".join(f"{f}:;" for f in fields)  # `:;` is a separator, and no width
    call = ["squeue", "--me", "--noheader", "--array", f"--Format={layout}"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"squeue does not answer: {error}") from error
    if done.returncode:
        raise UsageError(f"squeue failed: {done.stderr.strip()}")
    rows = (line.split(";") for line in done.stdout.splitlines() if line.strip())
    return [dict(zip(fields, (v.strip() for v in row), strict=False)) for row in rows]


ENDED = frozenset(
    (
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "REVOKED",
        "TIMEOUT",
    )
)


def submissions(store: Store) -> list[tuple[Path, dict[str, Any]]]:
    """The records of what was asked of Slurm and not yet forgotten by `queue`."""
    folder = store.root / ".submissions"
    return [(p, read_json(p)) for p in sorted(folder.glob("*.json"))] if folder.is_dir() else []


@dataclass(frozen=True, slots=True)
class Queued:
    """A task in the queue: its Slurm id (`12` or `12_3`), state and reason."""

    slurm_id: str
    state: str
    reason: str


def queue(store: Store) -> dict[str, Queued]:
    """Recipe key -> its task in the queue, for everything that was ever submitted to this store.

    Submissions whose jobs have left the queue are forgotten, except that of the last minute: a job
    may not be visible yet. Where there is no squeue the queue is unknown, and empty here.
    """
    known = submissions(store)
    if not known or shutil.which("squeue") is None:
        return {}
    by_token: dict[str, list[dict[str, str]]] = {}
    for row in _squeue():
        by_token.setdefault(row["Comment"].removeprefix("alignc:"), []).append(row)
    found: dict[str, Queued] = {}
    for path, told in known:
        rows = by_token.get(told["token"], [])
        if not rows and time.time() - told["time"] > 60:
            path.unlink(missing_ok=True)
        for row in rows:
            array = row["ArrayTaskID"].isdigit()
            index = int(row["ArrayTaskID"]) if array else 0
            if row["State"] not in ENDED and index < len(told["keys"]):
                slurm_id = f"{row['ArrayJobID']}_{index}" if array else row["JobID"]
                task = Queued(slurm_id, row["State"], row["Reason"])
                found |= dict.fromkeys(told["keys"][index], task)
    return found
