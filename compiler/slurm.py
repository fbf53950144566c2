"""The Slurm backend: sbatch text as a pure function, submission through submitit.

Every submission is a file in the store, written before sbatch is called and completed after it, so
that whoever comes next knows what was asked for. The token in the job's comment finds a job whose
submitter died in between.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.cluster import Profile
from compiler.describe import description_path, write_descriptions
from compiler.errors import UsageError
from compiler.plan import JobGroup, Plan
from runtime.claims import try_claim
from runtime.files import canonical, digest_text, write_json
from runtime.store import Store
from runtime.templates import fill

TOKEN = "<token>"  # stands for the token in a script that is only shown


@dataclass(frozen=True, slots=True)
class Script:
    """One sbatch call: its options, its text, and the file that lists its tasks."""

    job: JobGroup
    text: str
    options: tuple[str, ...]
    job_file: Path
    tasks: tuple[tuple[str, ...], ...]  # descriptions of each task, to be carried out in a row

    def call(self, path: str) -> list[str]:
        return ["sbatch", *self.options, path]


def dependency(slurm_ids: Iterable[str]) -> tuple[str, ...]:
    """`afterany`, never `afterok`: jobs guard themselves, and nothing may wait for ever."""
    ids = ":".join(slurm_ids)
    return (f"--dependency=afterany:{ids}",) if ids else ()


def script_text(job: JobGroup, profile: Profile, *, token: str, logs: str, work: str) -> str:
    """The sbatch text of a job. `logs` is the folder of its output, `work` the shell text of one task."""
    return fill(
        "sbatch.sh.j2",
        job=job,
        profile=profile,
        token=token,
        memory_mib=round(job.resources.memory_gb * 1024),
        warning_s=min(profile.warning_s, job.resources.minutes * 60 // 4),
        output=f"{logs}/" + ("%x-%A_%a.out" if job.array else "%x-%j.out"),
        work=work,
    )


def make_script(
    plan: Plan, job: JobGroup, profile: Profile, store: Store, ids: Mapping[str, str], token: str
) -> Script:
    """The sbatch call of a job; `ids` gives the Slurm ids of the jobs it comes after."""
    program = plan.program
    tasks = tuple(
        tuple(str(description_path(store, program, plan.steps[i].key)) for i in task) for task in job.tasks
    )
    folder = store.experiment(program.spec.experiment)
    job_file = folder / "jobs" / f"{job.name}-{digest_text(canonical(tasks))[:12]}.json"
    work = shlex.join(
        ["exec", profile.python or sys.executable, "-m", "runtime.run_task", str(store.root), str(job_file)]
    )
    text = script_text(job, profile, token=token, logs=str(store.root / ".logs" / "slurm"), work=work)
    after = [*job.after_slurm, *(ids[name] for name in job.after)]
    return Script(job, text, dependency(after), job_file, tasks)


def preview(plan: Plan, profile: Profile, store: Store) -> Iterator[tuple[Script, str]]:
    """Every sbatch call that `submit` would make, with its command line; touches nothing."""
    ids = {job.name: f"<id of {job.name}>" for job in plan.jobs}
    for job in plan.jobs:
        script = make_script(plan, job, profile, store, ids, TOKEN)
        yield script, " ".join(script.call(f"{job.name}.sh"))


# ---------------------------------------------------------------- submission


def _executor(folder: Path, script: Script) -> Any:
    """A submitit executor that submits our text with our options."""
    import submitit

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc]
        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return script.text

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            return script.call(str(submission_file_path))

        def _num_tasks(self) -> int:
            return 1

    return Executor(folder)


@contextmanager
def _outside_any_job() -> Iterator[None]:
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


def _sbatch(store: Store, script: Script) -> str:
    from submitit.core.utils import FailedJobError

    folder = store.root / ".logs" / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _outside_any_job():
            return str(_executor(folder, script)._submit_command("").job_id)
    except FailedJobError as error:
        raise UsageError(f"sbatch refused {script.job.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class Submitted:
    """One sbatch call that was made."""

    name: str
    slurm_id: str
    tasks: int


def _task_keys(plan: Plan, task: Iterable[int]) -> list[str]:
    """Every key by which somebody may look for a task."""
    identities = [plan.program.identities[i] for i in task]
    return list(dict.fromkeys(key for i in identities for key in (i.key, i.asked)))


def _submit_one(plan: Plan, job: JobGroup, profile: Profile, store: Store, ids: Mapping[str, str]) -> str:
    token = secrets.token_hex(8)
    script = make_script(plan, job, profile, store, ids, token)
    write_json(script.job_file, {"tasks": script.tasks})
    record = store.root / ".submissions" / f"{token}.json"
    told = {
        "token": token,
        "experiment": plan.program.spec.experiment,
        "job": job.name,
        "time": time.time(),
        "keys": [_task_keys(plan, task) for task in job.tasks],
        "slurm_id": None,
    }
    write_json(record, told)  # the intent, before anything is asked of Slurm
    try:
        slurm_id = _sbatch(store, script)
    except UsageError:
        record.unlink()
        raise
    write_json(record, {**told, "slurm_id": slurm_id})
    return slurm_id


def require_slurm() -> None:
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        raise UsageError("Slurm's commands are not on this machine: use `alignc run`, or go to a login node")


def submit(plan: Plan, profile: Profile, store: Store) -> Iterator[Submitted]:
    """Submit a plan's jobs in order; each is yielded once Slurm has it. The caller holds the lock."""
    write_descriptions(store, plan.program, {plan.steps[i].key for i in plan.to_run()})
    ids: dict[str, str] = {}
    for job in plan.jobs:
        ids[job.name] = _submit_one(plan, job, profile, store, ids)
        yield Submitted(job.name, ids[job.name], len(job.tasks))


def submission_lock(store: Store, wait_s: float = 60.0) -> Any:
    """One submission at a time on a store, so that no node is submitted twice. Raises UsageError."""
    deadline = time.monotonic() + wait_s
    while True:
        claim = try_claim(store.root / ".submit")
        if claim is not None:
            return claim
        if time.monotonic() > deadline:
            raise UsageError(f"another `alignc submit` has been at work on {store.root} for {wait_s:.0f} s")
        time.sleep(0.2)
