"""What the store and the scheduler know of a program's keys, before planning or telling its status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compiler.planning.identify import Chosen, Identity
from compiler.planning.plan import State
from runtime.claims import owner_of
from runtime.files import read_json
from runtime.job import CHOICE, SCRATCH, reached
from runtime.store import Store


def choices(store: Store) -> Chosen:
    """Looks up what a choice has fallen on."""

    def chosen(kind: str, key: str) -> tuple[str, str] | None:
        try:
            found = read_json(store.artifact(kind, key) / CHOICE)["chosen"]
        except (OSError, ValueError, KeyError):
            return None
        return found["key"], found["path"]

    return chosen


def survey(store: Store, identities: Iterable[Identity], queued: Mapping[str, str]) -> State:
    """The state of keys: one listing of the store, and one look at each key that is being worked on.

    `queued` gives the Slurm job of each key that is queued or running there.
    """
    sealed = store.sealed()
    wanted = {i.key: i for i in identities if i.key not in sealed}
    failures, working, trajectories = store.failures(), store.working(), store.trajectories()
    failed: dict[str, str] = {}
    stopped: dict[str, str] = {}
    busy: dict[str, str] = {}
    slurm_jobs: dict[str, str] = {}
    going: dict[str, float] = {}
    for key, identity in wanted.items():
        job = queued.get(key) or queued.get(identity.asked)
        if job is not None:
            busy[key] = f"in the queue as Slurm job {job}"
            slurm_jobs[key] = job.partition("_")[0]
        elif key in working and (owner := owner_of(store.claim_folder(key))) is not None:
            busy[key] = f"at work on {owner['host']}, process {owner['pid']}"
        if identity.asked in failures:
            outcome, message = _failure(store, identity.asked)
            (stopped if outcome in ("interrupted", "warned") else failed)[key] = message
        if trajectories and identity.trajectory in trajectories:
            going[identity.trajectory] = reached(store.trajectory(identity.trajectory) / SCRATCH)
    realised = {key: read_json(store.realised(key))["key"] for key in store.realisations() if wanted}
    made = frozenset(key for key, real in realised.items() if real in sealed)
    return State(sealed, failed, stopped, busy, slurm_jobs, going, made)


def _failure(store: Store, key: str) -> tuple[str, str]:
    """How a key's last try ended, in a word and in a line."""
    try:
        told = read_json(store.failure(key))
    except (OSError, ValueError):
        return "failed", "unknown"
    message = str(told["message"]).strip() or told["outcome"]
    outcome = "failed" if told.get("idle") else told["outcome"]  # another turn alone would not help it
    return outcome, message.splitlines()[0][:200]
