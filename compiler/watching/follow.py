"""Following the logs of nodes as they grow, over all their tries, until each is sealed or has failed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from compiler.watching.status import OVER
from compiler.watching.watch import Watcher

TICK_S = 0.5
LOOK_S = 15.0  # between looks at Slurm, at most


def follow(
    watcher: Watcher, chosen: Mapping[int, str], lines: int | None = None
) -> Iterator[tuple[str, str]]:
    """(node, new text of its log), in whole lines; at last (node, how it ended).

    `chosen` maps nodes to the keys of their logs. Slurm is asked only while no log grows.
    """
    store, nodes = watcher.store, watcher.program.graph.nodes
    places = {key: _start(store.log(key), lines) for key in chosen.values()}
    left, next_look = dict(chosen), 0.0
    while left:
        quiet = True
        for index, key in left.items():
            text, places[key] = _grown(store.log(key), places[key])
            if text:
                quiet = False
                yield nodes[index].id, text
        if quiet:
            over = {i: "done" for i, key in left.items() if store.locate(nodes[i].kind.name, key)}
            if not over and time.monotonic() >= next_look:
                over = _over(watcher, left)
                next_look = time.monotonic() + min(LOOK_S, watcher.interval_s)
            for index, how in over.items():
                text, _ = _grown(store.log(left[index]), places[left[index]])  # written while we looked
                del left[index]
                yield nodes[index].id, f"{text}{nodes[index].id}: {how}\n"
        if left:
            time.sleep(TICK_S)


def _over(watcher: Watcher, left: Iterable[int]) -> dict[int, str]:
    """The nodes to which nothing more happens by itself, and how they ended."""
    watcher.look()
    assert watcher.told is not None
    states = {s.id: s for s in watcher.told.states}
    ended = ((i, states[watcher.program.graph.nodes[i].id]) for i in left)
    return {i: f"{s.phase} {s.detail}".rstrip() for i, s in ended if s.phase in OVER}


def _start(path: Path, lines: int | None) -> int:
    """Where the last lines of a log begin; 0 for all of it."""
    if lines is None or not path.exists():
        return 0
    whole = path.read_bytes()
    return len(whole) - sum(map(len, whole.splitlines(keepends=True)[-lines:]))


def _grown(path: Path, place: int) -> tuple[str, int]:
    """What was added to a log since, up to the last whole line, and where that ends."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < place:
                place = 0  # it was removed, and begun anew
            file.seek(place)
            whole, newline, _ = file.read().rpartition(b"\n")
    except OSError:
        return "", place
    return (whole + newline).decode("utf-8", "replace"), place + len(whole) + len(newline)
