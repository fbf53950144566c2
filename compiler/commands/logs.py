"""`alignc logs`: what the tries of a node printed."""

from __future__ import annotations

import click

from compiler.commands.common import compile_, on_spec, open_store


@click.command("logs")
@click.option("--lines", "-n", type=click.IntRange(min=1), help="Only the last lines.")
@on_spec
@click.argument("node")
def command(spec: str, store_path: str, overrides: tuple[str, ...], node: str, lines: int | None) -> None:
    """Print what the tries of a node printed, and how the last one failed.

    \b
    alignc logs specs/quickstart.yaml 'tune[seed=0,learning_rate=0.001]'
    alignc logs specs/quickstart.yaml corpus -n 20
    """
    from compiler.errors import UsageError, near

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    keys = dict(zip((n.id for n in program.graph.nodes), (i.asked for i in program.identities), strict=True))
    if node not in keys:
        raise UsageError(f"there is no node {node!r}; {near(node, keys)}")
    path = store.log(keys[node])
    if not path.exists():
        raise UsageError(f"{node} has not been started, so there is no log")
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    click.echo("\n".join(text[-lines:] if lines else text))
