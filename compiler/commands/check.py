"""`alignc check`: find every error of a spec."""

from __future__ import annotations

import click

from compiler.commands.common import Selectors, compile_, on_spec, open_store, select_nodes, select_options


@click.command("check")
@on_spec
@select_options
def command(spec: str, store_path: str, overrides: tuple[str, ...], selectors: Selectors) -> None:
    """Find every error of a spec, with its place and the way out.

    \b
    alignc check specs/quickstart.yaml
    alignc check specs/quickstart.yaml --set stages.weak_sft.epochs=3
    alignc check specs/quickstart.yaml --select '+weak_best[seed=0]'
    """
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    selected = select_nodes(program, store, selectors)
    stages = len(program.graph.by_stage)
    click.echo(
        f"{spec}: right; {stages} stages, {len(program.graph.nodes)} nodes, {len(program.tables)} tables"
    )
    if selected is not None:
        chosen = len({program.graph.nodes[i].stage for i in selected})
        click.echo(f"selected: {chosen} stages, {len(selected)} nodes")
