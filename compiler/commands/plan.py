"""`alignc plan`: show what would run and why."""

from __future__ import annotations

import json

import click

from compiler.commands.common import compile_, costs_of, on_spec, open_store, plan_of, profile_of

FORMATS = ("text", "json", "dot", "mermaid", "sbatch")


@click.command("plan")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="What to print."
)
@click.option("--cluster", metavar="PROFILE", help="Cluster profile for sbatch texts.")
@click.option("--nodes", "every_node", is_flag=True, help="A line for every node, not for every stage.")
@click.option(
    "--cost", "show_cost", is_flag=True, help="Also what each stage will cost, and how that is known."
)
@on_spec
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    form: str,
    cluster: str | None,
    every_node: bool,
    show_cost: bool,
) -> None:
    """Show what would run, why, and what it will cost, before anything runs; touches nothing.

    \b
    alignc plan specs/quickstart.yaml
    alignc plan specs/quickstart.yaml --nodes
    alignc plan specs/quickstart.yaml --cost
    alignc plan specs/quickstart.yaml --format json | jq '.nodes[].id'
    alignc plan specs/quickstart.yaml --format sbatch --cluster mysite
    """
    from compiler import emit
    from compiler.cost import table

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = profile_of(program, cluster)
    on_slurm = form == "sbatch" or cluster is not None
    made = plan_of(program, store, on_slurm=on_slurm, max_array=profile.max_array_size)
    if form == "sbatch":
        click.echo(emit.to_sbatch(made, profile, store))
    elif form == "text":
        costs, budget = costs_of(made, store, profile)
        lines = [emit.to_text(made, every_node=every_node), *table.summary(made, costs, budget)]
        click.echo("\n".join(lines))
        if show_cost and costs.nodes:
            click.echo("\n" + table.by_stage(made, costs))
    elif form == "json":
        told = emit.plan_json(made)
        table.add_json(told, *costs_of(made, store, profile))
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        click.echo(emit.DRAWINGS[form](made))
