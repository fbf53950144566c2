"""`alignc cancel`: stop nodes and all that depends on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from compiler.commands.common import (
    Selectors,
    cluster_option,
    compile_,
    go_to_login,
    on_spec,
    open_store,
    select_nodes,
    select_options,
    submitting,
)
from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.program import Program
    from compiler.slurm.cancel import Task
    from runtime.store import Store


@click.command("cancel")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cluster_option
@on_spec
@click.argument("nodes", nargs=-1)
@select_options
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    selectors: Selectors,
    nodes: tuple[str, ...],
    yes: bool,
    cluster: str | None,
) -> None:
    """Stop nodes and all that depends on them: queued and running jobs of Slurm, processes of this machine.

    What is sealed stays; a training that is stopped goes on from its last checkpoint when it is
    submitted again.

    \b
    alignc cancel specs/quickstart.yaml 'tune[seed=0]'
    alignc cancel specs/quickstart.yaml tune --yes
    """
    from dataclasses import replace

    from compiler.slurm import cancel

    selectors = replace(selectors, select=(*nodes, *selectors.select))
    if not selectors.select:
        raise UsageError("name the nodes to cancel, such as `tune[seed=0]`")
    go_to_login(spec, cluster, copies=False)
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    chosen = cancel.with_dependents(program.graph.nodes, select_nodes(program, store, selectors) or ())
    tasks = _find(program, store, chosen)
    if not tasks:
        click.echo("nothing to cancel: none of these is queued or running")
        return
    for task in tasks:
        click.echo(f"{task.name}: {', '.join(task.nodes)}")
    if not yes and not click.confirm(f"Cancel {'these' if len(tasks) > 1 else 'this'}?"):
        return
    agreed = {node for task in tasks for node in task.nodes}
    with submitting(store):  # time has passed, and what waited may have been submitted
        again = [t for t in _find(program, store, chosen) if agreed.issuperset(t.nodes)]
        stopped = sum(1 for _ in cancel.stop(store, again))
    click.echo(f"cancelled {stopped} of {len(tasks)}")
    _tell_batches(program, store, chosen)


def _find(program: Program, store: Store, chosen: frozenset[int]) -> list[Task]:
    """What makes these nodes now. Says what is out of reach; raises UsageError where Slurm is silent."""
    from compiler.slurm.cancel import find_tasks
    from compiler.slurm.queue import look

    seen = look(store)
    if seen.problem and any(task.awaited for task in seen.tasks.values()):
        raise UsageError(f"{seen.problem}: jobs cannot be cancelled from here now")
    tasks, beyond = find_tasks(program, store, seen.tasks, chosen)
    for line in beyond:
        click.echo(line, err=True)
    return tasks


def _tell_batches(program: Program, store: Store, chosen: Iterable[int]) -> None:
    """Say what goes on, and will be paid for, at a provider."""
    from runtime.llms.batch_log import batches_of

    left = [program.graph.nodes[i].id for i in chosen if batches_of(store, program.identities[i].asked)]
    if left:
        click.echo(f"batches of {', '.join(sorted(left))} are still under way at their provider")
        click.echo("The next run finds them; it ends them where the llm has `mode: live` by then.")
