"""What the store and the scheduler know of a program's keys, before planning or telling its status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compiler.plan import State
from runtime.claims import owner_of
from runtime.files import read_json
from runtime.store import Store


def survey(store: Store, keys: Iterable[str], queued: Mapping[str, str]) -> State:
    """The state of keys: one listing of the store, and one look at each key that is being worked on.

    `queued` gives the Slurm job of each key that is queued or running there.
    """
    sealed = store.sealed()
    failed_keys = store.failures()
    working = store.working()
    wanted = dict.fromkeys(keys)
    failed = {k: _failure(store, k) for k in wanted if k in failed_keys and k not in sealed}
    busy = {k: f"in the queue as Slurm job {job}" for k, job in queued.items() if k not in sealed}
    for key in wanted:
        if key in working and key not in sealed and key not in busy:
            owner = owner_of(store.claim_folder(key))
            if owner is not None:
                busy[key] = f"at work on {owner['host']}, process {owner['pid']}"
    return State(sealed, failed, busy, {k: j.partition("_")[0] for k, j in queued.items() if k not in sealed})


def _failure(store: Store, key: str) -> str:
    try:
        told = read_json(store.failure(key))
    except (OSError, ValueError):
        return "unknown"
    message = str(told["message"]).strip() or told["outcome"]
    return message.splitlines()[0][:200]
