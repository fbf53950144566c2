"""The write-ahead log of submission: calls of sbatch that are on file before they are made.

    <store>/.submissions/backlog/USER/N.json  a call: script, tasks and keys, and how far it is made
    <store>/.submissions/jobs/TOKEN.json      what the tasks of one Slurm job do
    <store>/.submissions/TOKEN.json           one Slurm job: what it makes, written before it is asked for

What Slurm has no room for yet stays in the backlog. A small Slurm job, the carrier, goes on with it when
the older half of what is queued has ended:

    python -m runtime.slurm.submission STORE

All of it happens under one lock, and may be killed at any moment: whoever comes next looks every call
that was begun up by its token. A job that Slurm takes later than that finds nothing to do.
"""

from __future__ import annotations

import getpass
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from runtime.claims import Claim, try_claim
from runtime.files import read_json, write_json
from runtime.slurm.limits import Bound, Place, Task, bounds, configuration, known_tasks
from runtime.slurm.sbatch import Refused, sbatch
from runtime.spending import tried_gpu_hours
from runtime.store import Store

TOKEN = "<token>"  # stands for the token in a script that was not submitted yet
COMMENT = "alignc:"
POLL_S = 10.0
REMEMBERED_S = 120.0  # a submission that takes longer than this may meet tasks that Slurm has forgotten
CARRIER_MINUTES = 60  # time limit of a carrier
STAY_S = CARRIER_MINUTES * 60 * 0.75


# Descriptions to be carried out in a row; or several such rows, the arms of a task, side by side.
Work = tuple[str, ...] | tuple[tuple[str, ...], ...]


class Silent(Exception):
    """slurmctld does not answer."""


class NoRoom(Exception):
    """Slurm takes no job now, not even the carrier; the message says which limit it is."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of sbatch, or several where its tasks do not fit at once.

    Tasks are counted by their index in the array; one without descriptions is not submitted.
    """

    number: int
    experiment: str
    job: str
    place: Place
    text: str
    carrier: str  # the script of the job that goes on from here
    throttle: int | None  # most tasks at once
    tasks: tuple[Work, ...]
    keys: tuple[tuple[str, ...], ...]  # every key by which somebody may look for a task
    after: tuple[int, ...] = ()  # calls that it comes after
    elementwise: tuple[int, ...] = ()  # of which each task needs but the one of its own index
    after_slurm: tuple[str, ...] = ()  # jobs that were queued before
    made: int = 0  # index of the first task that Slurm does not have
    ids: tuple[str, ...] = ()  # the Slurm jobs they are in
    begun: str = ""  # token of a call whose answer is not on file
    begun_tasks: int = 0

    @property
    def left(self) -> int:
        return sum(map(bool, self.tasks[self.made :]))

    def after_next(self, count: int) -> int:
        """Index of the task that follows the next `count` ones."""
        indices = [i for i, task in enumerate(self.tasks) if task and i >= self.made]
        return indices[count - 1] + 1


@dataclass(frozen=True, slots=True)
class Made:
    """One sbatch call that was made. `left`: tasks that follow, where it is the carrier of these."""

    name: str
    slurm_id: str
    tasks: int
    left: int = 0
    why: str = ""


# ---------------------------------------------------------------- files


def _folder(store: Store) -> Path:
    return store.root / ".submissions"


def job_file(store: Store, token: str) -> Path:
    return _folder(store) / "jobs" / f"{token}.json"


def _backlog(store: Store) -> Path:
    """Each user has a backlog: nobody may be able to see what became of another's jobs."""
    return _folder(store) / "backlog" / getpass.getuser()


def _path(store: Store, number: int) -> Path:
    return _backlog(store) / f"{number:06}.json"


def _write(store: Store, call: Call) -> Call:
    write_json(_path(store, call.number), asdict(call))
    return call


def _read(path: Path) -> Call:
    told = read_json(path)
    lists = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    lists["tasks"], lists["keys"] = tuple(map(tuple, told["tasks"])), tuple(map(tuple, told["keys"]))
    return Call(**{**told, **lists, "place": Place(*told["place"])})


def backlog(store: Store) -> list[Call]:
    """The calls on file in the order in which they are made; those already made are told by `left`."""
    return [_read(path) for path in sorted(_backlog(store).glob("[0-9]*.json"))]


def enqueue(store: Store, calls: Iterable[Call]) -> None:
    """Put calls on file behind those that wait. The caller holds the lock."""
    for call in calls:
        _write(store, call)


def next_number(store: Store) -> int:
    return max((call.number for call in backlog(store)), default=0) + 1


def waiting(store: Store) -> dict[str, int]:
    """Key -> the number of the call that will submit it."""
    return {key: call.number for call in backlog(store) for task in call.keys[call.made :] for key in task}


def waiting_tasks(store: Store) -> dict[str, str]:
    """Key -> the first key of the task that will make it, of everything in the backlog."""
    return {key: task[0] for call in backlog(store) for task in call.keys[call.made :] for key in task}


def withdraw(store: Store, keys: Iterable[str]) -> None:
    """Take the tasks that wait and make any of these keys out of the backlog. The caller holds the lock."""
    gone = set(keys)
    for call in backlog(store):
        drop = [i >= call.made and not gone.isdisjoint(made) for i, made in enumerate(call.keys)]
        if any(drop):
            tasks = tuple(() if out else task for out, task in zip(drop, call.tasks, strict=True))
            made = tuple(() if out else keys for out, keys in zip(drop, call.keys, strict=True))
            _write(store, replace(call, tasks=tasks, keys=made))
    _tell_carriers(store)


def _record(store: Store, token: str, slurm_id: str | None, **told: Any) -> None:
    common = {"token": token, "time": time.time(), "slurm_id": slurm_id, "user": getpass.getuser()}
    write_json(_folder(store) / f"{token}.json", {**common, **told})


def _record_call(store: Store, call: Call, slurm_id: str | None) -> None:
    end = call.made + call.begun_tasks
    keys = [list(k) if call.made <= i < end else [] for i, k in enumerate(call.keys)]
    _record(store, call.begun, slurm_id, experiment=call.experiment, job=call.job, keys=keys)


def _records(store: Store) -> Iterator[dict[str, Any]]:
    """The records of jobs; those that somebody forgets meanwhile are left out."""
    for path in _folder(store).glob("*.json"):
        with suppress(FileNotFoundError):
            yield read_json(path)


def _carriers(store: Store) -> dict[str, Mapping[str, Any]]:
    """Token -> record of each carrier of this user that is not forgotten."""
    return {r["token"]: r for r in _records(store) if r.get("carrier") == getpass.getuser()}


def lock(store: Store, wait_s: float) -> Claim | None:
    """One submission at a time on a store; None where another is at work for longer than `wait_s`."""
    deadline = time.monotonic() + wait_s
    while (claim := try_claim(store.root / ".submit")) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(0.2)
    return claim


# ---------------------------------------------------------------- who was killed, and where


def _known() -> list[Task]:
    tasks = known_tasks()
    if tasks is None:
        raise Silent("squeue does not answer")
    return tasks


def _by_token(tasks: Iterable[Task]) -> dict[str, Task]:
    return {t.comment.removeprefix(COMMENT): t for t in tasks if t.comment.startswith(COMMENT)}


def _fence(store: Store, call: Call) -> Call:
    """Make sure that a call that Slurm does not know of does nothing, should Slurm take it yet."""
    write_json(job_file(store, call.begun), {"tasks": [[] for _ in call.tasks]})
    (_folder(store) / f"{call.begun}.json").unlink(missing_ok=True)
    return _write(store, replace(call, begun="", begun_tasks=0))


def _adopt(store: Store, call: Call, slurm_id: str) -> Call:
    """Put down that Slurm has taken a call."""
    _record_call(store, call, slurm_id)
    made, ids = call.made + call.begun_tasks, (*call.ids, slurm_id)
    return _write(store, replace(call, made=made, ids=ids, begun="", begun_tasks=0))


def settle(store: Store) -> None:
    """Find out what became of calls that were begun and not finished; drop what nobody carries on.

    The caller holds the lock. Raises Silent.
    """
    calls = backlog(store)
    if not calls:
        return
    tasks = _known()
    found = _by_token(tasks)
    for call in calls:
        if call.begun:
            task = found.get(call.begun)
            _adopt(store, call, task.job) if task else _fence(store, call)
    if not _carried(store, tasks):
        drop(store)


def drop(store: Store, first: int = 0) -> None:
    """Forget the backlog from call `first` on: what is left of it belongs to nobody, and is planned anew."""
    for call in backlog(store):
        if call.number >= first:
            _path(store, call.number).unlink()


def _carried(store: Store, tasks: Iterable[Task], but: str | None = None) -> bool:
    """Whether a carrier (another one than the Slurm job `but`) is queued or running."""
    found = _by_token(task for task in tasks if not task.ended and task.job != but)
    return not found.keys().isdisjoint(_carriers(store))


# ---------------------------------------------------------------- submission


class _Room:
    """How many more tasks Slurm takes, as far as is known."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks, self.made = tasks, 0
        self._config = configuration()
        self._bounds: dict[Place, list[Bound]] = {}

    def at(self, place: Place) -> int:
        bound = self.tightest(place)
        return sys.maxsize if bound is None else max(0, bound.room - self.made)

    @property
    def remembers_s(self) -> float:
        """For how long Slurm tells how a job ended (MinJobAge); 0 where it is not known."""
        told = self._config.get("MinJobAge", "").split()
        return float(told[0]) if told and told[0].isdigit() else 0.0

    def tightest(self, place: Place) -> Bound | None:
        if place not in self._bounds:
            self._bounds[place] = bounds(place, self.tasks, self._config)
        return min(self._bounds[place], key=lambda b: b.room, default=None)


def dependency(whole: Iterable[str], elementwise: Iterable[str] = ()) -> tuple[str, ...]:
    """Options that let a job come after others (Slurm ids). Nothing may wait for ever.

    So it is never `afterok`: jobs look at their inputs themselves. Of arrays `elementwise`, each task waits
    but for the one of its own index; Slurm takes it out of the queue when that one does not succeed.
    """
    words = {"afterany": ":".join(whole), "aftercorr": ":".join(elementwise)}
    told = ",".join(f"{word}:{ids}" for word, ids in words.items() if ids)
    kill = ("--kill-on-invalid-dep=yes",) if words["aftercorr"] else ()
    return (f"--dependency={told}", *kill) if told else ()


def array_of(tasks: Sequence[Sequence[Any]], throttle: int | None = None, first: int = 0) -> str:
    """What `--array` says of the tasks from index `first` on; those that are empty are left out."""
    indices = [i for i, task in enumerate(tasks) if task and i >= first]
    runs = [[i for _, i in run] for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0])]
    told = (str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return ",".join(told) + (f"%{throttle}" if throttle else "")


def _options(call: Call, count: int, calls: Mapping[int, Call], live: set[str], fresh: set[str]) -> list[str]:
    """The options of sbatch for the next `count` tasks; jobs that have ended are not waited for.

    fresh: jobs of which Slurm has forgotten no task. For one that it has forgotten, `aftercorr` is never
    fulfilled.
    """
    parents = [calls[n] for n in call.after if n in calls]
    alike = [p.ids[0] for p in parents if p.number in call.elementwise and not p.left and len(p.ids) == 1]
    elementwise = [i for i in alike if i in fresh]
    whole = (i for i in (*call.after_slurm, *(i for p in parents for i in p.ids)) if i not in elementwise)
    options = list(dependency((i for i in whole if i in live), elementwise))
    if count < call.left or call.made:
        end = call.after_next(count)
        options.append(f"--array={array_of(call.tasks[:end], call.throttle, call.made)}")
    return options


def _submit(store: Store, call: Call, count: int, options: Sequence[str]) -> Call:
    """Submit the next `count` tasks of a call. Raises Refused."""
    token = secrets.token_hex(8)
    write_json(job_file(store, token), {"tasks": call.tasks})
    call = _write(store, replace(call, begun=token, begun_tasks=call.after_next(count) - call.made))
    _record_call(store, call, None)
    try:
        slurm_id = sbatch(scripts(store), call.text.replace(TOKEN, token), options)
    except Refused:
        task = _by_token(_known()).get(token)  # it may have been taken, and the answer lost
        if task is None:
            _fence(store, call)
            raise
        slurm_id = task.job
    return _adopt(store, call, slurm_id)


def scripts(store: Store) -> Path:
    """Where scripts are kept, and what their jobs print."""
    return store.root / ".logs" / "slurm"


def drain(store: Store, refused: Callable[[Call, Refused], None], me: str | None = None) -> Iterator[Made]:
    """Submit what there is room for, oldest first, and a carrier for the rest.

    The caller holds the lock. `refused` is told of each call that Slurm refuses, and that is then left
    out. `me`: the Slurm job of the carrier that asks, which may stay; anybody else is told by NoRoom
    that nobody carries on. Raises Silent.
    """
    calls = {call.number: call for call in backlog(store)}
    pending = [call for call in calls.values() if call.left]
    tasks = _known()
    # Nobody comes after a carrier, which may stay until all is submitted.
    live = {t.job for t in tasks if not t.ended} - {r["slurm_id"] for r in _carriers(store).values()}
    carried = _carried(store, tasks, but=me)
    room, why, fresh = _Room(tasks), "", set[str]()
    left = sum(call.left for call in pending)
    whole = all(left <= room.at(call.place) for call in pending)
    stays = me is not None and not _ours(store, live)
    reserve = 0 if whole or carried or (stays and room.at(pending[0].place) < 2) else 1
    piece = left if whole else max(1, (room.at(pending[0].place) - reserve + 1) // 2)
    for call in pending:
        while call.left and not why:
            count = min(call.left, piece, room.at(call.place) - reserve)
            if count <= 0:
                why = str(room.tightest(call.place))
                break
            try:
                call = _submit(store, call, count, _options(call, count, calls, live, fresh))
            except Refused as error:
                if error.full:
                    why = str(error)
                    break
                refused(call, error)
                call = _write(store, replace(call, made=len(call.tasks)))
                break
            calls[call.number] = call
            room.made += count
            live.add(call.ids[-1])
            if room.remembers_s >= REMEMBERED_S:
                fresh.add(call.ids[-1])
            yield Made(call.job, call.ids[-1], count)
    waiting = _tell_carriers(store)
    if not waiting:
        drop(store)
    elif not carried:
        ours = _ours(store, live)
        if me is None or (ours and room.at(waiting[0].place)):
            yield _send_carrier(store, waiting, ours, why)


def _tell_carriers(store: Store) -> list[Call]:
    """Let the records of all carriers say what is left; returns the calls that are."""
    left = [call for call in backlog(store) if call.left]
    keys = _keys_left(left)
    for token, record in _carriers(store).items():
        if record["keys"] != [keys]:
            write_json(_folder(store) / f"{token}.json", {**record, "keys": [keys]})
    return left


def _keys_left(calls: Iterable[Call]) -> list[str]:
    return [key for call in calls for task in call.keys[call.made :] for key in task]


def _send_carrier(store: Store, left: Sequence[Call], ours: Mapping[str, int], why: str) -> Made:
    """Submit a carrier, which starts when there is likely to be room again. Raises NoRoom."""
    token, first = secrets.token_hex(8), left[0]
    told = {"experiment": first.experiment, "job": "carrier", "keys": [_keys_left(left)]}
    told["carrier"] = getpass.getuser()
    _record(store, token, None, **told)
    try:
        text = first.carrier.replace(TOKEN, token)
        slurm_id = sbatch(scripts(store), text, dependency(_older_half(ours)))
    except Refused as error:
        (_folder(store) / f"{token}.json").unlink()
        raise NoRoom(why or str(error)) from error
    _record(store, token, slurm_id, **told)
    return Made("carrier", slurm_id, 1, sum(call.left for call in left), why)


def _ours(store: Store, live: set[str]) -> dict[str, int]:
    """Slurm id -> tasks, of the live jobs of this store, oldest first."""
    found = {r["slurm_id"]: sum(map(bool, r["keys"])) for r in _records(store) if r["slurm_id"] in live}
    return {i: found[i] for i in sorted(found, key=int)}


def _older_half(jobs: Mapping[str, int]) -> Iterator[str]:
    """The first jobs that together have half of all tasks."""
    seen, half = 0, sum(jobs.values()) / 2
    for slurm_id, tasks in jobs.items():
        if seen >= half:
            return
        seen += tasks
        yield slurm_id


# ---------------------------------------------------------------- the carrier


def tell_refused(store: Store, call: Call, error: Refused) -> None:
    """Nobody looks at a carrier's output, so that what Slurm refused counts as failed."""
    print(f"sbatch refused {call.job}: {error}", file=sys.stderr, flush=True)
    message = f"sbatch refused {call.job}: {error}"
    for key in (key for task in call.keys[call.made :] for key in task):
        told = {"id": call.job, "key": key, "outcome": "refused", "message": message, "traceback": ""}
        hours = tried_gpu_hours(store, key)
        write_json(store.failure(key), {**told, "time": time.time(), "slurm_job": None, "gpu_hours": hours})


def carry(store: Store, me: str) -> bool:
    """One round of the carrier that is the Slurm job `me`; False where it has to stay."""
    claim = lock(store, STAY_S)
    if claim is None:
        return False
    try:
        settle(store)
        if not any(call.left for call in backlog(store)):
            return True
        for made in drain(store, lambda call, error: tell_refused(store, call, error), me):
            print(f"submitted {made.name} as Slurm job {made.slurm_id} ({made.tasks})", flush=True)
        return not backlog(store) or _carried(store, _known(), but=me)
    except (Silent, NoRoom) as error:
        print(error, flush=True)
        return False
    finally:
        claim.release()


def main() -> None:
    store, me = Store(Path(sys.argv[1])), os.environ["SLURM_JOB_ID"]
    deadline = time.monotonic() + STAY_S
    while not carry(store, me):
        if time.monotonic() > deadline:  # nobody else carries on: begin anew, with a new time limit
            subprocess.run(["scontrol", "requeue", me], check=True)
            return
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
