"""The Slurm backend: sbatch text as a pure function of a plan's job and a cluster profile."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compiler.output.describe import description_path
from compiler.planning.place import best_fit
from compiler.planning.plan import JobGroup, Plan
from compiler.site.profile import Profile
from compiler.site.shell import inside, preparation, python_inside
from compiler.slurm.again import excluded
from compiler.slurm.notice import by_mail, description_file, wanted
from runtime.slurm.again import VARIABLE
from runtime.slurm.policy import UNASKED
from runtime.slurm.submission import CARRIER_MINUTES, TOKEN, Work, array_of, dependency, job_file, scripts
from runtime.stage import Resources
from runtime.store import Store
from runtime.templates import fill

NOTICE_MINUTES = 10


@dataclass(frozen=True, slots=True)
class Script:
    """One sbatch call: its options and its text, with `TOKEN` where the token will stand, and its tasks."""

    job: JobGroup
    text: str
    options: tuple[str, ...]
    tasks: tuple[Work, ...]  # descriptions of each task

    def call(self, path: str) -> list[str]:
        return ["sbatch", *self.options, path]


def throttle(job: JobGroup, profile: Profile) -> int | None:
    """Most tasks of a job at once, from the profile's tasks and GPUs; None: no limit."""
    gpus = job.paid[1]
    by_gpus = profile.max_gpus and gpus and max(1, profile.max_gpus // gpus)
    return min(filter(None, (profile.parallel_tasks, by_gpus)), default=None)


def script_text(
    job: JobGroup,
    profile: Profile,
    *,
    token: str,
    logs: str,
    work: str,
    store: str,
    settings: Sequence[str] = (),
    mail: str = "",
) -> str:
    """The sbatch text of a job.

    logs: the folder of its output. work: the shell words of one task, which run in the profile's
    container. store: the shell word of the store's folder. settings: lines before them. mail: what
    Slurm sends mail about.
    """
    profile = profile.at(job.resources.partition)
    return fill(
        "sbatch.sh.j2",
        job=job,
        array=array_of(job.tasks, throttle(job, profile)) if job.array else "",
        profile=profile,
        preparation=list(preparation(profile)),
        settings=settings,
        mail=mail,
        token=token,
        memory_mib=round(job.resources.memory_gb * 1024) * job.width,
        warning_s=min(profile.warning_s, job.resources.minutes * 60 // 4),
        output=f"{logs}/" + ("%x-%A_%a.out" if job.array else "%x-%j.out"),
        work=f"exec {inside(profile, store, gpus=job.resources.gpus > 0)}{work}",
    )


def make_script(
    plan: Plan, job: JobGroup, profile: Profile, store: Store, ids: Mapping[str, str] | None = None
) -> Script:
    """The sbatch call of a job; `ids` names the Slurm jobs of those it comes after, where they are known."""

    def paths(row: Sequence[int]) -> tuple[str, ...]:
        return tuple(str(description_path(store, plan.program, plan.steps[i].key)) for i in row)

    tasks: tuple[Work, ...] = tuple(tuple(map(paths, task)) for task in job.arms)
    tasks = tasks or tuple(map(paths, job.tasks))
    python = python_inside(profile, sys.executable)
    work = _module(python, "runtime.run_task", store, str(job_file(store, TOKEN)))
    mail = "FAIL" if profile.mail and "fail" in profile.mail.on else ""
    again = [plan.again[k] for i in job.steps if (k := plan.steps[i].key) in plan.again]
    told: dict[str, Any] = {"options": [*profile.options, *excluded(again, profile.options)]}
    if profile.retry != UNASKED:
        policy = profile.retry.model_dump_json(exclude_none=True)
        told["environment"] = {**profile.environment, VARIABLE: policy}
    profile = profile.model_copy(update=told)
    return Script(job, _text(job, profile, store, work, mail), _after(job, ids) if ids else (), tasks)


def _after(job: JobGroup, ids: Mapping[str, str]) -> tuple[str, ...]:
    whole = [*job.after_slurm, *(ids[name] for name in job.after if name not in job.elementwise)]
    return dependency(whole, [ids[name] for name in job.elementwise])


def carrier_text(experiment: str, profile: Profile, store: Store) -> str:
    """The script of the job that goes on with submission, `TOKEN` in it."""
    outside = outside_container(profile)
    resources = small(CARRIER_MINUTES, profile)
    job = JobGroup(f"{experiment}.carrier", ((),), resources, 1, (), ())
    work = _module(outside.python or sys.executable, "runtime.slurm.submission", store)
    return _text(job, outside, store, work)


def notice_script(plan: Plan, profile: Profile, store: Store) -> Script:
    """The sbatch call of the job that comes after all others and tells how they ended."""
    outside = outside_container(profile)
    after = tuple(job.name for job in plan.jobs)
    resources = small(NOTICE_MINUTES, profile)
    job = JobGroup(f"{plan.program.spec.experiment}.end", ((),), resources, 1, after, ())
    work = _module(outside.python or sys.executable, "runtime.notify", store, str(job_file(store, TOKEN)))
    text = _text(job, outside, store, work, "END" if by_mail(profile) else "")
    return Script(job, text, (), ((str(description_file(plan, profile, store)),),))


def outside_container(profile: Profile) -> Profile:
    """For jobs that need Slurm's commands and little else: by the Python that submits."""
    if profile.container is None:
        return profile
    return profile.model_copy(update={"container": None, "python": None})


def small(minutes: int, profile: Profile) -> Resources:
    """What a job asks for that hardly computes."""
    asked = Resources(cpus=1, memory_gb=1, minutes=minutes)
    place = None if profile.partition else best_fit(asked, 1, profile)
    return asked.model_copy(update={"partition": place})


def _module(python: str, name: str, store: Store, *words: str) -> str:
    return shlex.join([python, "-m", name, str(store.root), *words])


def _text(job: JobGroup, profile: Profile, store: Store, work: str, mail: str = "") -> str:
    return script_text(
        job,
        profile,
        token=TOKEN,
        logs=str(scripts(store)),
        work=work,
        store=shlex.quote(str(store.root)),
        mail=mail,
    )


def preview(plan: Plan, profile: Profile, store: Store) -> Iterator[tuple[Script, str]]:
    """Every sbatch call that `submit` would make if all fits, with its command line; touches nothing."""
    ids = {job.name: f"<id of {job.name}>" for job in plan.jobs}
    made = [make_script(plan, job, profile, store, ids) for job in plan.jobs]
    if plan.jobs and wanted(profile):
        last = notice_script(plan, profile, store)
        made.append(replace(last, options=dependency(ids.values())))
    for script in made:
        yield script, " ".join(script.call(f"{script.job.name}.sh"))
