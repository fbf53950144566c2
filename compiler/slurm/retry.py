"""Forgetting how nodes failed, before they are tried again."""

from __future__ import annotations

import time
from collections.abc import Iterable

from runtime.files import write_json
from runtime.spending import tried_gpu_hours
from runtime.store import Store


def forget_failures(store: Store, keys: Iterable[str]) -> None:
    """Remove the records of how these keys failed. What their tries cost stays known: budgets need it."""
    for key in store.failures().intersection(keys):
        hours = tried_gpu_hours(store, key)
        if not hours:
            store.failure(key).unlink(missing_ok=True)
            continue
        told = {"key": key, "outcome": "interrupted", "message": "is to be tried again", "traceback": ""}
        write_json(store.failure(key), {**told, "time": time.time(), "gpu_hours": hours})
