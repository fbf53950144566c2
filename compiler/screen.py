"""The part of the command line that shows a run: live bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import click

from compiler.local import Event, LocalRun, Progress
from compiler.planning.plan import MADE
from runtime.plural import counted
from runtime.store import Store


def _line(event: Event, done: int, total: int) -> str:
    count = f"[{done}/{total}]"
    if event.what == "sealed":
        return f"{count} made {event.node} in {event.seconds:.1f} s"
    if event.what == "reused":
        return f"{count} reused {event.node}: what was chosen is as before"
    if event.what == "started":
        return f"{count} started {event.node}"
    return f"{count} {event.what.upper()} {event.node}: {event.message}"


def _watch_plain(local: LocalRun, total: int) -> None:
    with closing(local.run()) as events:  # closed also by Ctrl-C, which ends the jobs
        for event in events:
            if event.what != "skipped":
                click.echo(_line(event, len(local.results), total))


def _watch_live(local: LocalRun, total: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, TimeElapsedColumn(), transient=True) as bars:
        whole = bars.add_task("nodes", total=total, note="")
        tasks: dict[str, Any] = {}

        def tick(running: Mapping[str, Progress]) -> None:
            for node, told in running.items():
                if node in tasks:
                    bars.update(tasks[node], completed=told.done, total=told.total or None, note=told.text)

        with closing(local.run(tick)) as events:
            for event in events:
                if event.what == "started":
                    tasks[event.node] = bars.add_task(event.node, total=None, note="")
                    continue
                bars.advance(whole)
                if event.node in tasks:
                    bars.remove_task(tasks.pop(event.node))
                if event.what != "skipped":
                    line = _line(event, len(local.results), total)
                    bars.console.print(line, highlight=False, markup=False, soft_wrap=True)


def watch_run(local: LocalRun, store: Store) -> bool:
    """Run to the end and show it; false where it was stopped by Ctrl-C."""
    plan = local.plan
    total = len({s.key for s in plan.steps if s.action in (*MADE, "wait")})
    reused = plan.estimate.reuse
    click.echo(
        f"{plan.program.spec.experiment}: {counted(total, 'node')} to run, {reused:,} reused; "
        f"{counted(local.capacity.cpus, 'CPU')}, {counted(len(local.capacity.gpus), 'GPU')}; "
        f"store {store.root}"
    )
    started = time.monotonic()
    try:
        (_watch_live if sys.stdout.isatty() else _watch_plain)(local, total)
    except KeyboardInterrupt:
        return False
    skipped = sum(how == "skipped" for how in local.results.values())
    if skipped:
        click.echo(f"{counted(skipped, 'node')} skipped: they read one of the above")
    if total:
        click.echo(f"{counted(total - skipped, 'node')} in {time.monotonic() - started:.1f} s\n")
    return True
