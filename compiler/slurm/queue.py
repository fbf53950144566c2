"""What Slurm says of the tasks that were submitted to a store: one squeue call, and one of sacct at need.

Seals are the truth, and what Slurm says is news. What it said last is kept in one file of the store, so
that whoever asks next, on any login node, knows what was queued when Slurm stopped answering, which
tasks left the queue and since when. Losing the file costs words only.

A job is known by the token in its comment. Where only its id is told (sacct), the submit time must fit
too: ids are given out again when a cluster loses its state.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from compiler.errors import UsageError
from runtime.files import canonical, read_json, write_atomic
from runtime.slurm.limits import ENDED
from runtime.slurm.limits import call as run
from runtime.store import Store

VISIBLE_S = 60.0  # a job that was just submitted may not be in the queue yet
GRACE_S = 120.0  # how long a task may be out of the queue before it is missed: seals come late on NFS
KEEP_S = 14 * 86400.0  # how long a task that left no trace is told of
CLOCKS_S = 60.0  # by how much the clocks of two machines may differ
ANSWER_S = 60.0  # how long squeue and sacct may take
SCHEMA = "alignc.queue/1"

NEW = "NEW"  # not in the queue yet
MISSING = "MISSING"  # has left the queue, and Slurm does not tell how


@dataclass(frozen=True, slots=True)
class Queued:
    """A task: its Slurm id (`12` or `12_3`), its state and reason as Slurm writes them.

    Times are seconds since 1970, 0 where they are not known. `starts`: when Slurm thinks that it will
    start, or when it did. `since`: when it was seen to have ended, or first missed.
    """

    slurm_id: str
    state: str
    reason: str = ""
    submitted: float = 0.0
    starts: float = 0.0
    since: float = 0.0

    @property
    def live(self) -> bool:
        """In the queue; states that nobody has heard of count as live."""
        return self.state not in ENDED and self.state not in (NEW, MISSING)

    @property
    def awaited(self) -> bool:
        """Whether it may still work, or have a seal on its way."""
        return self.state not in ENDED and (self.state != MISSING or time.time() - self.since < GRACE_S)


class Told(TypedDict, total=False):
    """What Slurm tells of a failure, as `failure_of` takes it."""

    slurm_id: str
    state: str
    since: float


def told_of(task: Queued | None) -> Told:
    """What Slurm tells of how a task ended; nothing where there is none."""
    if task is None:
        return {}
    state = "" if task.state == MISSING else task.state
    return {"slurm_id": task.slurm_id, "state": state, "since": task.submitted - CLOCKS_S}


Tasks = dict[int, Queued]  # index in its array -> task


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the queue: recipe key -> the task that was submitted last for it.

    Where Slurm did not answer, tasks are as they were when it last did, `problem` says what went wrong,
    and `answered` is that time.
    """

    tasks: Mapping[str, Queued] = field(default_factory=dict[str, Queued])
    problem: str = ""
    answered: float = 0.0

    @property
    def queued(self) -> dict[str, Queued]:
        """What is in the queue."""
        return {key: task for key, task in self.tasks.items() if task.live}


# ---------------------------------------------------------------- asking


def _ask(call: Sequence[str]) -> str:
    """What a command of Slurm prints, its times in seconds since 1970. Raises UsageError."""
    try:
        done = run(call, ANSWER_S, SLURM_TIME_FORMAT="%s")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{call[0]} does not answer: {error}") from error
    if done.returncode:
        raise UsageError(f"{call[0]} failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else 0.0


def _squeue(users: Iterable[str]) -> dict[str, Tasks]:
    """Token -> tasks of all jobs of these users, also those that ended minutes ago. Raises UsageError.

    Lines that make no sense are passed over.
    """
    # A comment of a job that is not ours may hold anything: it comes last.
    fields = ("JobID", "ArrayJobID", "ArrayTaskID", "State", "SubmitTime", "StartTime", "Reason", "Comment")
    layout = ",".join(f"{f}:;" for f in fields)  # `:;` is a separator, and no width
    call = ["squeue", f"--user={','.join(users)}", "--noheader", "--array", "--states=all"]
    found: dict[str, Tasks] = {}
    for line in _ask([*call, f"--Format={layout}"]).splitlines():
        row = [value.strip() for value in line.split(";", len(fields) - 1)]
        if len(row) < len(fields) or not row[0].isdigit():
            continue
        job, array, index, state, submitted, starts, reason, comment = row
        token = comment.rstrip(";").removeprefix("alignc:")
        number, id_ = (int(index), f"{array}_{index}") if index.isdigit() else (0, job)
        task = Queued(id_, state, reason, _seconds(submitted), _seconds(starts))
        found.setdefault(token, {})[number] = task
    return found


def _sacct(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Queued]:
    """(token, index) -> how it ended, as accounting tells of these submissions. Raises UsageError.

    An id may have been given out several times: a line belongs to the last submission of that id and
    name before its submit time.
    """
    by_id: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda r: r["time"]):
        by_id.setdefault(str(record["slurm_id"]), []).append(record)
    first = time.localtime(min(r["time"] for r in records) - CLOCKS_S)
    call = ["sacct", "--allocations", "--duplicates", "--parsable2", "--noheader", "--delimiter=;"]
    call += [f"--jobs={','.join(by_id)}", f"--starttime={time.strftime('%Y-%m-%dT%H:%M:%S', first)}"]
    found: dict[tuple[str, int], Queued] = {}
    for line in _ask([*call, "--format=JobID,Submit,Start,End,State,JobName"]).splitlines():
        row = line.split(";", 5)
        if len(row) < 6:
            continue
        id_, submit, start, end, state, name = row
        job, _, index = id_.partition("_")
        submitted = _seconds(submit)
        owners = [r for r in by_id.get(job, []) if r["job"] == name and r["time"] - CLOCKS_S <= submitted]
        if owners and (index.isdigit() or not index):
            word = (state.split() or [""])[0]  # `CANCELLED by 1000`
            task = Queued(id_, word, "", submitted, _seconds(start), _seconds(end))
            found[owners[-1]["token"], int(index or 0)] = task  # the last try comes last
    return found


# ---------------------------------------------------------------- what is known


def submissions(store: Store) -> list[tuple[Path, dict[str, Any]]]:
    """The records of what was asked of Slurm and not yet forgotten by `look`, the oldest first."""
    folder = store.root / ".submissions"
    found = [(p, _read(p)) for p in folder.glob("*.json")] if folder.is_dir() else []
    return sorted(((p, r) for p, r in found if r), key=lambda pair: (pair[1]["time"], pair[0].name))


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


@dataclass(slots=True)
class _Memory:
    """What Slurm said when it last answered; `asked`: when sacct last did, below 0: it never will."""

    answered: float = 0.0
    asked: float = 0.0
    tasks: dict[str, Tasks] = field(default_factory=dict[str, Tasks])


def _memory_path(store: Store) -> Path:
    return store.root / ".queue.json"


def _recall(store: Store) -> _Memory:
    told = _read(_memory_path(store))
    try:
        if told["schema"] != SCHEMA:
            return _Memory()
        tasks = {t: {int(i): Queued(*row) for i, row in rows.items()} for t, rows in told["tasks"].items()}
        return _Memory(told["answered"], told["asked"], tasks)
    except (KeyError, TypeError, ValueError, AttributeError):  # damaged
        return _Memory()


def _keep(store: Store, memory: _Memory) -> None:
    rows = {
        token: {
            str(i): [t.slurm_id, t.state, t.reason, t.submitted, t.starts, t.since] for i, t in tasks.items()
        }
        for token, tasks in memory.tasks.items()
    }
    told = {"schema": SCHEMA, "answered": memory.answered, "asked": memory.asked, "tasks": rows}
    with suppress(OSError):  # somebody else's store, or a full disk: looking must still work
        write_atomic(_memory_path(store), canonical(told) + "\n", durable=False)


# ---------------------------------------------------------------- looking


def look(store: Store) -> Look:
    """The tasks of everything that was submitted to this store. Never raises for what Slurm does."""
    known = submissions(store)
    if not known:
        return Look()
    from runtime.slurm.submission import job_file  # which few need

    records = [record for _, record in known]
    memory, now = _recall(store), time.time()
    try:
        if shutil.which("squeue") is None:
            raise UsageError("there is no squeue on this machine")
        rows = _squeue(sorted({str(r["user"]) for r in records}))
    except UsageError as error:
        tasks = {r["token"]: _remembered(r, memory.tasks.get(r["token"], {})) for r in records}
        return Look(_by_key(records, tasks), str(error), memory.answered)
    memory.answered = now
    memory.tasks = {
        r["token"]: _seen(r, rows.get(r["token"], {}), memory.tasks.get(r["token"], {}), now) for r in records
    }
    sealed = store.sealed()
    _account(records, memory, sealed | store.failures(), now)
    newest = {key: r["token"] for r in records for keys in r["keys"] for key in keys}
    for path, record in known:
        if _settled(record, memory.tasks[record["token"]], sealed, newest, now):
            path.unlink(missing_ok=True)
            if record["slurm_id"]:  # else it may be what keeps a late job from working
                job_file(store, record["token"]).unlink(missing_ok=True)
            del memory.tasks[record["token"]]
    _keep(store, memory)
    return Look(_by_key(records, memory.tasks), "", now)


def look_now(store: Store) -> Look:
    """A look at the queue of this moment; an empty one where there is no squeue.

    Raises UsageError where Slurm does not answer: nobody must submit on what it said long ago.
    """
    if shutil.which("squeue") is None:
        return Look()
    seen = look(store)
    if seen.problem:
        raise UsageError(seen.problem)
    return seen


def remember_cancelled(store: Store, slurm_ids: Iterable[str]) -> None:
    """Keep that these tasks were cancelled: Slurm itself forgets those that never started."""
    ids, memory, now = frozenset(slurm_ids), _recall(store), time.time()
    for tasks in memory.tasks.values():
        for index, task in tasks.items():
            if task.slurm_id in ids and task.state not in ENDED:
                tasks[index] = replace(task, state="CANCELLED", reason="", since=now)
    _keep(store, memory)


def _seen(record: Mapping[str, Any], rows: Tasks, before: Tasks, now: float) -> Tasks:
    """The tasks of a submission after a look: those in the queue as told, the others by what was known."""
    return {i: _one(record, i, rows.get(i), before.get(i), now) for i in range(len(record["keys"]))}


def _one(
    record: Mapping[str, Any], index: int, row: Queued | None, before: Queued | None, now: float
) -> Queued:
    if row is not None:
        ended_before = before is not None and before.state == row.state in ENDED
        since = before.since if before is not None and ended_before else now
        return row if row.live else replace(row, since=since)
    if before is not None and before.state in (*ENDED, MISSING):
        return before
    if now - record["time"] < VISIBLE_S and (before is None or before.state == NEW):
        return _new(record, index, NEW)
    left = before if before is not None else _new(record, index, MISSING)
    return replace(left, state=MISSING, reason="", since=now)


def _new(record: Mapping[str, Any], index: int, state: str) -> Queued:
    job = str(record["slurm_id"] or "")
    return Queued(f"{job}_{index}" if len(record["keys"]) > 1 else job, state, "", record["time"])


def _remembered(record: Mapping[str, Any], before: Tasks) -> Tasks:
    """The tasks of a submission while Slurm does not answer; those never seen are thought to wait."""
    return {i: before.get(i) or _new(record, i, "PENDING") for i in range(len(record["keys"]))}


def _account(
    records: Sequence[Mapping[str, Any]], memory: _Memory, settled: frozenset[str], now: float
) -> None:
    """Ask accounting how tasks ended that left the queue and nothing else behind: once, and again while
    their grace lasts."""
    if memory.asked < 0:
        return
    ask = [r for r in records if r["slurm_id"] and _unexplained(r, memory, settled)]
    if not ask:
        return
    try:
        told = _sacct(ask)
    except UsageError as error:
        # Silent for now, or for ever: `Slurm accounting storage is disabled`, no sacct here.
        memory.asked = -1.0 if "disabled" in str(error) else now
        return
    memory.asked = now
    for (token, index), task in told.items():
        known = memory.tasks[token].get(index)
        if known is not None and known.state == MISSING and task.state in ENDED:
            memory.tasks[token][index] = replace(task, since=known.since)


def _unexplained(record: Mapping[str, Any], memory: _Memory, settled: frozenset[str]) -> bool:
    return any(
        task.state == MISSING
        and memory.asked < task.since + GRACE_S
        and not settled.issuperset(record["keys"][index])
        for index, task in memory.tasks[record["token"]].items()
    )


def _settled(
    record: Mapping[str, Any],
    tasks: Tasks,
    sealed: frozenset[str],
    newest: Mapping[str, str],
    now: float,
) -> bool:
    """Whether nothing more is to be told of a submission: all ended well, sealed, or submitted again."""
    if any(task.live or task.state == NEW for task in tasks.values()):
        return False
    if not record["slurm_id"] or now - record["time"] > KEEP_S:
        return True
    return all(
        task.state == "COMPLETED"
        or all(key in sealed or newest[key] != record["token"] for key in record["keys"][index])
        for index, task in tasks.items()
    )


def _by_key(records: Sequence[Mapping[str, Any]], tasks: Mapping[str, Tasks]) -> dict[str, Queued]:
    """The last submission of a key tells; one that was forgotten just now has nothing to tell."""
    return {
        key: task for r in records for i, task in tasks.get(r["token"], {}).items() for key in r["keys"][i]
    }
