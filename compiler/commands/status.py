"""`alignc status`: how far an experiment is."""

from __future__ import annotations

import click

from compiler.commands.common import Selectors, compile_, on_spec, open_store, select_nodes, select_options


@click.command("status")
@click.option("--nodes", "every_node", is_flag=True, help="A line for every node, not for every stage.")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@on_spec
@select_options
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    selectors: Selectors,
    every_node: bool,
    form: str,
) -> None:
    """Tell how far an experiment is: done, running, queued, failed, blocked.

    \b
    alignc status specs/quickstart.yaml
    alignc status specs/quickstart.yaml --nodes
    alignc status specs/quickstart.yaml --nodes --select 'state:failed|blocked'
    """
    from compiler import status as told
    from compiler.queue import queue

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    states = told.node_states(program, store, queue(store))
    selected = select_nodes(program, store, selectors)
    if selected is not None:
        states = [states[i] for i in sorted(selected)]
    click.echo(
        told.to_json(states) if form == "json" else told.to_text(program, states, every_node=every_node)
    )
