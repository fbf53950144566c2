"""`alignc plan`: show what would run and why."""

from __future__ import annotations

import click

from compiler.commands.common import compile_, on_spec, open_store, plan_of, profile_of

FORMATS = ("text", "json", "dot", "mermaid", "sbatch", "html")


@click.command("plan")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="What to print."
)
@click.option("--cluster", metavar="PROFILE", help="Cluster profile for sbatch texts.")
@click.option("--nodes", "every_node", is_flag=True, help="A line for every node, not for every stage.")
@on_spec
def command(
    spec: str, store_path: str, overrides: tuple[str, ...], form: str, cluster: str | None, every_node: bool
) -> None:
    """Show what would run and why, before anything runs; touches nothing.

    \b
    alignc plan specs/quickstart.yaml
    alignc plan specs/quickstart.yaml --nodes
    alignc plan specs/quickstart.yaml --format json | jq '.nodes[].id'
    alignc plan specs/quickstart.yaml --format sbatch --cluster mysite
    alignc plan specs/quickstart.yaml --format html > plan.html
    """
    from compiler import emit

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = profile_of(program, cluster)
    on_slurm = form == "sbatch" or cluster is not None
    made = plan_of(program, store, on_slurm=on_slurm, max_array=profile.max_array_size)
    if form == "sbatch":
        click.echo(emit.to_sbatch(made, profile, store))
    elif form == "html":
        from compiler.page import to_html

        click.echo(to_html(made, profile, store))
    elif form == "text":
        click.echo(emit.to_text(made, every_node=every_node))
    else:
        click.echo(emit.DRAWINGS[form](made))
