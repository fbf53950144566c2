"""The Slurm backend: sbatch text as a pure function of a plan's job and a cluster profile."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compiler.cluster import Profile
from compiler.describe import description_path
from compiler.plan import JobGroup, Plan
from runtime.stage import Resources
from runtime.store import Store
from runtime.submission import CARRIER_MINUTES, TOKEN, array_of, dependency, job_file, scripts
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
        array=array_of(job.tasks, throttle(job, profile)) if job.array else "",
        profile=profile,
        token=token,
        memory_mib=round(job.resources.memory_gb * 1024),
        warning_s=min(profile.warning_s, job.resources.minutes * 60 // 4),
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
    return Script(job, _text(job, profile, store, work), _after(job, ids) if ids else (), tasks)


def _after(job: JobGroup, ids: Mapping[str, str]) -> tuple[str, ...]:
    whole = [*job.after_slurm, *(ids[name] for name in job.after if name not in job.elementwise)]
    return dependency(whole, [ids[name] for name in job.elementwise])


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
