"""Watching an experiment: looks at it again and again, as often as something happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import click

from compiler.planning.survey import choices
from compiler.program import Program, compile_spec
from compiler.slurm.queue import look
from compiler.watching.status import OVER, NodeState, Report, Usual, report, summary
from runtime.store import Store

LOCAL_S = 2.0  # between looks while nothing is in Slurm
SHORTEST_S = 15.0  # between looks at Slurm, after something happened
LONGEST_S = 180.0
GROWTH = 1.5


def interval(before_s: float, *, happened: bool, in_slurm: bool) -> float:
    """Seconds until the next look."""
    if not in_slurm:
        return LOCAL_S
    return SHORTEST_S if happened else min(LONGEST_S, max(SHORTEST_S, before_s * GROWTH))


@dataclass(slots=True)
class Watcher:
    """One watched experiment; `look` is called when `interval_s` is over."""

    program: Program
    overrides: tuple[str, ...]
    store: Store
    selected: frozenset[int] | None
    usual: Usual
    told: Report | None = None
    interval_s: float = 0.0
    _phases: dict[str, str] = field(default_factory=dict[str, str])

    def look(self) -> list[NodeState]:
        """Look once: `told` is new, and the nodes whose phase has changed are returned."""
        seen = look(self.store)
        told = report(self.program, self.store, seen, usual=self.usual, selected=self.selected)
        changed = [s for s in told.states if self._phases.get(s.id, "waiting") != s.phase]
        self._phases = {s.id: s.phase for s in told.states}
        self.told = told
        in_slurm = any(task.awaited for task in seen.tasks.values())
        self.interval_s = interval(self.interval_s, happened=bool(changed), in_slurm=in_slurm)
        made = {s.id for s in changed if s.phase == "done"}
        choice_made = any(node.id in made and node.is_choice for node in self.program.graph.nodes)
        if choice_made:  # what comes after it has another key now
            self.program = compile_spec(
                self.program.spec.path,
                self.overrides,
                self.store.root / ".fingerprints.json",
                choices(self.store),
            )
        return changed

    @property
    def over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.told is not None and all(s.phase in OVER for s in self.told.states)

    @property
    def well(self) -> bool:
        return self.told is not None and all(s.phase == "done" for s in self.told.states)


def watch_plain(watcher: Watcher, sleep: Callable[[float], None] = time.sleep) -> bool:
    """A line for each node whose phase changes; returns whether all are done. Ctrl-C stops watching only."""
    problem = ""
    try:
        while True:
            for state in watcher.look():
                click.echo(f"{time.strftime('%H:%M:%S')} {state.phase} {state.id}  {state.detail}".rstrip())
            assert watcher.told is not None
            if watcher.told.problem != problem:
                problem = watcher.told.problem
                click.echo(f"Slurm does not answer: {problem}" if problem else "Slurm answers again")
            if watcher.over:
                break
            sleep(watcher.interval_s)
    except KeyboardInterrupt:
        pass
    if watcher.told is not None:
        click.echo(summary(watcher.told))
    return watcher.well
