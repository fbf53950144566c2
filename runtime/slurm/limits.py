"""How many more tasks Slurm takes from this user: the site's limits, and how much of them is used.

Asked of scontrol, sacctmgr and squeue before anything is submitted. What nobody tells (no accounting,
private data, a command that fails) is unknown, and bounds nothing.
"""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

ENDED = frozenset(
    (
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    )
)
NO_LIMIT = ("", "UNLIMITED", "INFINITE", "NONE", "N/A", "(NULL)")
FIELDS = ("ArrayJobID", "ArrayTaskID", "UserName", "Account", "QOS", "Partition", "State", "Comment")
QOS = "Name,GrpSubmit,MaxSubmitPA,MaxSubmitPU"
ASSOCIATION = "Account,User,Partition,GrpSubmit,MaxSubmit,DefaultQOS,ParentName"
Ask = Callable[..., str | None]


class Place(NamedTuple):
    """Where a job is submitted, as its script says; None is the site's default."""

    account: str | None = None
    qos: str | None = None
    partition: str | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit on the tasks that may be queued and running, and how many are."""

    name: str
    most: int
    used: int

    @property
    def room(self) -> int:
        return max(0, self.most - self.used)

    def __str__(self) -> str:
        return f"{self.name} is {self.most}, and {self.used} are there"


@dataclass(frozen=True, slots=True)
class Task:
    """One task (or one job without tasks) that Slurm knows of, whoever's it is."""

    job: str
    user: str
    account: str
    qos: str
    partition: str
    comment: str
    ended: bool


def call(words: Sequence[str], timeout: float, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm, without the user's own filters, which must not hide jobs.

    more: variables of its environment. Raises OSError and TimeoutExpired.
    """
    filters = ("SQUEUE_", "SACCT_", "SINFO_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(filters)}
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        env={**kept, **more},
    )


def ask(*words: str, timeout: float = 60) -> str | None:
    """What a command prints; None where it is missing, fails, or does not answer in time (seconds)."""
    try:
        done = call(words, timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def configuration(ask: Ask = ask) -> dict[str, str]:
    """slurm.conf as slurmctld tells it; empty where it does not answer."""
    lines = (ask("scontrol", "show", "config") or "").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def max_array_size(config: Mapping[str, str]) -> int | None:
    """Most tasks of an array whose first is 0; None where it is not known."""
    return _number(config.get("MaxArraySize", ""))


def known_tasks(ask: Ask = ask) -> list[Task] | None:
    """Everything that slurmctld still knows, ended jobs too; None where it does not answer."""
    layout = ",".join(f"{field}:;" for field in FIELDS)  # `:;` is a separator, and no width
    told = ask("squeue", "--all", "--states=all", "--array", "--noheader", f"--Format={layout}")
    if told is None:
        return None
    tasks: list[Task] = []
    for line in told.splitlines():
        row = line.split(";", 7)
        if len(row) < 8:  # of a comment of several lines
            continue
        job, _, user, account, qos, partition, state, comment = row
        comment = comment.strip().removesuffix(";")
        tasks.append(Task(job, user, account, qos, partition, comment, state in ENDED))
    return tasks


def bounds(
    place: Place, tasks: Sequence[Task], config: Mapping[str, str], user: str | None = None, ask: Ask = ask
) -> list[Bound]:
    """The limits that hold for one more task of `user` at a place; unknown ones are left out."""
    found = list(_of_the_site(tasks, config))
    if "limits" in config.get("AccountingStorageEnforce", ""):
        live = [task for task in tasks if not task.ended]
        found += _of_accounting(place, live, config.get("ClusterName", ""), user or getpass.getuser(), ask)
    return found


def _of_the_site(tasks: Sequence[Task], config: Mapping[str, str]) -> Iterator[Bound]:
    most = _number(config.get("MaxJobCount", ""))
    if most is not None:  # jobs that have ended count until they are forgotten; one below it is the end
        yield Bound("MaxJobCount of the cluster", most - 1, len(tasks))


def _of_accounting(place: Place, live: Sequence[Task], cluster: str, user: str, ask: Ask) -> Iterator[Bound]:
    def rows(*words: str) -> list[list[str]]:
        told = ask("sacctmgr", "-nP", "show", *words) or ""
        return [line.split("|") for line in told.splitlines()]

    named = place.account or next((row[0] for row in rows("user", user, "format=DefaultAccount")), "")
    own = rows("assoc", "where", f"cluster={cluster}", f"user={user}", f"format={ASSOCIATION}")
    mine = [row for row in own if row[0] == named and row[2] in ("", place.partition)]
    if not mine:
        return
    accounts = {
        row[0]: row for row in rows("assoc", "where", f"cluster={cluster}", "user=", f"format={ASSOCIATION}")
    }
    association = max(mine, key=lambda row: row[2])  # that of the partition before the general one
    own_tasks = [task for task in live if task.account == named and task.user == user]
    yield from _bound(f"MaxSubmitJobs of account {named}", association[4], own_tasks, lambda t: True)
    yield from _bound(f"GrpSubmitJobs of {user} in {named}", association[3], own_tasks, lambda t: True)
    for name in _ancestors(named, accounts):
        yield from _bound(
            f"GrpSubmitJobs of account {name}",
            accounts[name][3],
            live,
            lambda t, n=name: n in _ancestors(t.account, accounts),
        )
    qos = place.qos or association[5] or "normal"
    of_job = [task for task in live if task.qos == qos]
    of_partition = [task for task in live if task.partition == place.partition]
    counted = {qos: of_job}
    counted |= dict.fromkeys(_partition_qos(place.partition, ask), of_partition)
    for name, tasks in counted.items():
        for _, group, in_account, of_user in rows("qos", "where", f"name={name}", f"format={QOS}"):
            yield from _bound(f"GrpSubmitJobs of QOS {name}", group, tasks, lambda t: True)
            limit = f"MaxSubmitJobsPerAccount of QOS {name}"
            yield from _bound(limit, in_account, tasks, lambda t: t.account == named)
            limit = f"MaxSubmitJobsPerUser of QOS {name}"
            yield from _bound(limit, of_user, tasks, lambda t: t.user == user)


def _partition_qos(partition: str | None, ask: Ask) -> list[str]:
    """The QOS that bounds all jobs of a partition, where it has one and the partition is named."""
    told = (ask("scontrol", "show", "partition", partition) or "") if partition else ""
    return [name for name in re.findall(r"\bQoS=(\S+)", told) if name != "N/A"]


def _ancestors(account: str, accounts: Mapping[str, Sequence[str]]) -> list[str]:
    """An account and those above it."""
    found: list[str] = []
    while account in accounts and account not in found:
        found.append(account)
        account = accounts[account][6]
    return found


def _bound(name: str, most: str, tasks: Iterable[Task], counts: Callable[..., bool]) -> Iterator[Bound]:
    number = _number(most)
    if number is not None:
        yield Bound(name, number, sum(counts(task) for task in tasks))


def parse_minutes(text: str) -> int | None:
    """Whole minutes of a time limit as Slurm writes it: `1-12:00:00`, `30:00`; None: no limit."""
    if text.upper() in NO_LIMIT:
        return None
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, *([days] if dash else []))):
        return None
    numbers = list(map(int, parts))
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes = [*numbers, 0][:2]
        return (int(days) * 24 + hours) * 60 + minutes
    if len(numbers) == 3:  # hours:minutes:seconds
        return numbers[0] * 60 + numbers[1]
    return numbers[0]  # minutes[:seconds]


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
