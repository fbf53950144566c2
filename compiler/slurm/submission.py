"""Plan -> calls of sbatch on file, and their submission."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping

from compiler.errors import UsageError
from compiler.output.describe import write_descriptions
from compiler.planning.beside import paid_gpus
from compiler.planning.plan import JobGroup, Plan
from compiler.site.profile import Profile
from compiler.slurm.notice import missing, notice_key, wanted, write_description
from compiler.slurm.queue import look_now
from compiler.slurm.script import carrier_text, make_script, notice_script, throttle
from runtime.claims import Claim
from runtime.slurm import limits, submission
from runtime.slurm.sbatch import Refused
from runtime.slurm.submission import Call, Made
from runtime.store import Store

ARRAY = 1000  # most tasks in an array where nobody tells: one less than Slurm's own MaxArraySize


def require_slurm() -> None:
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        way = "use `alignc run`, go to a login node, or name one: `--cluster me@login.site.org`"
        raise UsageError(f"Slurm's commands are not on this machine: {way}")


def max_array_size(profile: Profile) -> int:
    """Most tasks in one array: what Slurm says, or less where the profile asks for that."""
    told = limits.max_array_size(limits.configuration()) if shutil.which("scontrol") else None
    if told is None:
        return profile.max_array_size or ARRAY
    return min(told, profile.max_array_size or told)


def submission_lock(store: Store, wait_s: float = 60.0) -> Claim:
    """One submission at a time on a store, so that no node is submitted twice. Raises UsageError."""
    claim = submission.lock(store, wait_s)
    if claim is None:
        raise UsageError(f"another `alignc submit` has been at work on {store.root} for {wait_s:.0f} s")
    return claim


def settle(store: Store) -> None:
    """Clear up what a submission that was killed has left; before planning. The caller holds the lock."""
    try:
        submission.settle(store)
    except submission.Silent as error:
        raise UsageError(str(error)) from error


def _task_keys(plan: Plan, task: Iterable[int]) -> tuple[str, ...]:
    """Every key by which somebody may look for a task."""
    identities = [plan.program.identities[i] for i in task]
    return tuple(dict.fromkeys(key for i in identities for key in (i.key, i.asked)))


def _awaited(plan: Plan, job: JobGroup, waiting: Mapping[str, int]) -> set[int]:
    """The calls that wait in the backlog and make what a job reads."""
    needed = {n for i in job.steps for n in plan.steps[i].needs if plan.steps[n].action == "wait"}
    identities = [plan.program.identities[n] for n in needed]
    return {waiting[key] for i in identities for key in (i.key, i.asked) if key in waiting}


def calls_of(plan: Plan, profile: Profile, store: Store) -> list[Call]:
    """The calls of a plan, to be put behind those that wait in the store."""
    waiting = submission.waiting(store)
    experiment = plan.program.spec.experiment
    first = submission.next_number(store)
    numbers = {job.name: number for number, job in enumerate(plan.jobs, first)}
    calls = [
        Call(
            number=numbers[job.name],
            experiment=experiment,
            job=job.name,
            place=_place(job, profile),
            text=script.text,
            carrier=carrier_text(experiment, profile, store),
            throttle=throttle(job, profile),
            tasks=script.tasks,
            keys=tuple(_task_keys(plan, task) for task in job.tasks),
            after=tuple(sorted({*(numbers[name] for name in job.after), *_awaited(plan, job, waiting)})),
            elementwise=tuple(numbers[name] for name in job.elementwise),
            after_slurm=job.after_slurm,
        )
        for job in plan.jobs
        for script in [make_script(plan, job, profile, store)]
    ]
    if wanted(profile):
        calls += _notice(plan, profile, store, first + len(calls), waiting)
    return calls


def _notice(
    plan: Plan, profile: Profile, store: Store, number: int, waiting: Mapping[str, int]
) -> list[Call]:
    """The call of the job that tells of the end, if one is needed: behind all that is queued or waits."""
    queued = {key: task.slurm_id.partition("_")[0] for key, task in look_now(store).queued.items()}
    if not missing(plan, profile, queued.keys() | waiting.keys()):
        return []
    write_description(plan, profile, store)
    script, experiment = notice_script(plan, profile, store), plan.program.spec.experiment
    steps = [i for i, step in enumerate(plan.steps) if step.action == "wait"]
    keys = dict.fromkeys(_task_keys(plan, steps))
    own = range(number - len(plan.jobs), number)
    return [
        Call(
            number=number,
            experiment=experiment,
            job=script.job.name,
            place=_place(script.job, profile),
            text=script.text,
            carrier=carrier_text(experiment, profile, store),
            throttle=None,
            tasks=script.tasks,
            keys=((notice_key(plan),),),
            after=tuple(sorted({*own, *(waiting[key] for key in keys if key in waiting)})),
            after_slurm=tuple(dict.fromkeys(queued[key] for key in keys if key in queued)),
        )
    ]


def _place(job: JobGroup, profile: Profile) -> limits.Place:
    there = profile.at(job.resources.partition)
    return limits.Place(there.account, there.qos, there.partition)


def submit(plan: Plan, profile: Profile, store: Store) -> Iterator[Made]:
    """Submit a plan's jobs in order; each is yielded once Slurm has it. The caller holds the lock.

    Raises UsageError where Slurm refuses a job, or has no room for any.
    """
    calls = calls_of(plan, profile, store) if plan.jobs or wanted(profile) else []
    if not calls:
        return
    paid = {plan.steps[i].key: gpus for i, gpus in paid_gpus(plan).items()}
    keys = {plan.steps[i].key for i in plan.to_run()}
    write_descriptions(store, plan.program, keys, paid, plan.estimated)
    first = calls[0].number

    def refused(call: Call, error: Refused) -> None:
        if call.number < first:  # another experiment's
            submission.tell_refused(store, call, error)
        else:
            submission.drop(store, first)
            raise UsageError(f"sbatch refused {call.job}: {error}") from error

    submission.enqueue(store, calls)
    try:
        yield from submission.drain(store, refused)
    except submission.Silent as error:  # what became of the last call is for the next submission to see
        raise UsageError(str(error)) from error
    except submission.NoRoom as error:
        submission.drop(store, first)
        raise UsageError(
            f"Slurm takes no more of your jobs now ({error}): submit again when some have ended"
        ) from error
