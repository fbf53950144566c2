"""`alignc explain`: one node, its key and where everything came from."""

from __future__ import annotations

import json

import click

from compiler.commands.common import (
    Selectors,
    compile_,
    on_spec,
    open_store,
    plan_of,
    profile_of,
    select_nodes,
)
from compiler.errors import UsageError

MOST = 10


@click.command("explain", short_help="Explain a node: its key, where each value came from, who reads it.")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@click.option("--cluster", metavar="PROFILE", help="Cluster profile, to see the resources it gives.")
@on_spec
@click.argument("node")
def command(
    spec: str, store_path: str, overrides: tuple[str, ...], node: str, form: str, cluster: str | None
) -> None:
    """Explain a node: its recipe, the parts of its key, where each value came from, who needs it.

    \b
    alignc explain specs/quickstart.yaml 'weak_sft[seed=0,learning_rate=0.001,epoch=2]'
    alignc explain specs/quickstart.yaml base --format json
    """
    from compiler.output.emit import SIGNS
    from compiler.planning.explain import explain, to_json, to_text

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    chosen = sorted(select_nodes(program, store, Selectors((node,))) or ())
    if len(chosen) > MOST:
        ids = [program.graph.nodes[i].id for i in chosen[:3]]
        raise UsageError(f"`{node}` is {len(chosen)} nodes: name fewer, such as {', '.join(ids)}")
    if cluster is not None:
        from compiler.planning.place import placed

        program = placed(program, profile_of(program, cluster))
    made = plan_of(program, store)
    found = [explain(made, index) for index in chosen]
    if form == "json":
        click.echo(json.dumps([to_json(each) for each in found], indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join(to_text(each, SIGNS[each.action]) for each in found))
