"""`alignc check`: find every error of a spec."""

from __future__ import annotations

import click

from compiler.commands.common import compile_, on_spec, open_store


@click.command("check")
@on_spec
def command(spec: str, store_path: str, overrides: tuple[str, ...]) -> None:
    """Find every error of a spec, with its place and the way out.

    \b
    alignc check specs/quickstart.yaml
    alignc check specs/quickstart.yaml --set stages.weak_sft.epochs=3
    """
    program = compile_(spec, overrides, open_store(store_path))
    stages = len(program.graph.by_stage)
    click.echo(
        f"{spec}: right; {stages} stages, {len(program.graph.nodes)} nodes, {len(program.tables)} tables"
    )
