"""The live view of `alignc status --watch`: stages, their nodes, and the end of a node's log.

What is shown is a function of a `View` and the last report; keys make one view from another.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import click

from compiler.watching.status import PHASES, Report, by_stage, clock, node_line, stage_lines, summary, to_text
from compiler.watching.watch import Watcher
from runtime.store import Store

KEYS = {
    b"\x1b[A": "up",
    b"k": "up",
    b"\x1b[B": "down",
    b"j": "down",
    b"\r": "open",
    b"\n": "open",
    b"\x1b[C": "open",
    b"\x1b": "back",
    b"\x7f": "back",
    b"\x1b[D": "back",
    b"q": "quit",
}
TAIL_BYTES = 65536
COLOURS = {"running": "cyan", "done": "green", "failed": "red", "lost": "red", "unknown": "yellow"}


@dataclass(frozen=True, slots=True)
class View:
    """All stages, the nodes of one, or the log of one node; `at` is the marked line of each."""

    stage: str = ""
    node: str = ""
    at: tuple[int, int] = (0, 0)

    @property
    def depth(self) -> int:
        return 2 if self.node else 1 if self.stage else 0


def rows(view: View, told: Report) -> dict[str, str]:
    """The lines to choose from, by the name of what each is about; at the log there are none."""
    if view.depth == 0:
        return stage_lines(told)
    some = by_stage(told.states).get(view.stage, []) if view.depth == 1 else []
    urgent = sorted(some, key=lambda s: (PHASES.index(s.phase) - 1) % len(PHASES))  # done ones last
    width = max((len(s.id) for s in some), default=0)
    return {s.id: node_line(s, width) for s in urgent}


def press(view: View, key: str, told: Report) -> View:
    """The view after a key."""
    names = list(rows(view, told))
    if key == "back":
        return replace(view, node="") if view.node else View(at=(view.at[0], 0))
    if not names:
        return view
    at = min(view.at[view.depth], len(names) - 1)
    if key == "open":
        return replace(view, node=names[at]) if view.stage else replace(view, stage=names[at])
    at = max(0, min(len(names) - 1, at + {"up": -1, "down": 1}.get(key, 0)))
    return replace(view, at=(view.at[0], at) if view.stage else (at, 0))


def tail(store: Store, asked: str, lines: int) -> list[str]:
    """The last lines of a node's log."""
    try:
        with store.log(asked).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ["no log yet: it has not been started"]
    return text.splitlines()[-lines:]


def screen(view: View, watcher: Watcher, told: Report, height: int) -> Any:
    """What is shown, as rich's text."""
    from rich.text import Text

    room = max(1, height - 5)
    shown = Text(no_wrap=True, overflow="ellipsis")
    shown.append(f"{view.node or view.stage or told.experiment}\n\n", style="bold")
    if view.depth == 2:
        asked = {
            n.id: i.asked
            for n, i in zip(watcher.program.graph.nodes, watcher.program.identities, strict=True)
        }
        shown.append("\n".join(tail(watcher.store, asked[view.node], room)) + "\n")
    else:
        listed = list(rows(view, told).values())
        at = min(view.at[view.depth], max(0, len(listed) - 1))
        first = max(0, min(at - room // 2, len(listed) - room))
        for number, line in enumerate(listed[first : first + room], first):
            colour = COLOURS.get(line.partition(" ")[0], "") if view.stage else ""
            shown.append(line + "\n", style=f"{colour} reverse" if number == at else colour)
    if told.problem:
        shown.append(f"Slurm does not answer: {told.problem}\n", style="yellow")
    shown.append(f"\n{summary(told)}\n")
    keys = "esc: back" if view.depth == 2 else "up, down, enter: look closer; esc: back"
    more = "nothing more happens by itself" if watcher.over else f"next look in {watcher.interval_s:.0f} s"
    shown.append(f"{clock(time.time())}  {keys}; q: quit; {more}", style="dim")
    return shown


@contextmanager
def _keyboard() -> Iterator[None]:
    """Keys come one by one, unseen, until the end."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _key(seconds: float) -> str:
    """The next key's meaning; empty where none came in time."""
    if not select.select([sys.stdin], [], [], max(0.0, seconds))[0]:
        return ""
    return KEYS.get(os.read(sys.stdin.fileno(), 16), "")


def watch_live(watcher: Watcher) -> bool:
    """Show the experiment until all is done or `q` is pressed; returns whether all nodes are done."""
    from rich.live import Live

    try:
        watcher.look()
        with _keyboard(), Live(screen=True, auto_refresh=False) as live:
            _show(watcher, live)
    except KeyboardInterrupt:
        pass
    if watcher.told is not None:
        click.echo(to_text(watcher.told, every_node=False))
    return watcher.well


def _show(watcher: Watcher, live: Any) -> None:
    view, key, last = View(), "", time.monotonic()
    while key != "quit" and not watcher.well:
        if time.monotonic() - last >= watcher.interval_s:
            watcher.look()
            last = time.monotonic()
        assert watcher.told is not None
        view = press(view, key, watcher.told) if key else view
        live.update(screen(view, watcher, watcher.told, live.console.height), refresh=True)
        key = _key(min(1.0, last + watcher.interval_s - time.monotonic()))
