"""`alignc plan`: show what would run and why."""

from __future__ import annotations

import click

from compiler.commands.common import (
    Selectors,
    asked_for,
    compile_,
    keep_plan,
    on_spec,
    open_store,
    plan_of,
    profile_of,
    select_nodes,
    select_options,
)

FORMATS = ("text", "json", "dot", "mermaid", "sbatch", "html")


@click.command("plan")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="What to print."
)
@click.option("--cluster", metavar="PROFILE", help="Cluster profile for sbatch texts.")
@click.option("--nodes", "every_node", is_flag=True, help="A line for every node, not for every stage.")
@click.option(
    "--out", type=click.Path(dir_okay=False), help="Also keep the plan in this file, for `submit` and `run`."
)
@on_spec
@select_options
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    selectors: Selectors,
    form: str,
    cluster: str | None,
    every_node: bool,
    out: str | None,
) -> None:
    """Show what would run and why, before anything runs; touches nothing.

    \b
    alignc plan specs/quickstart.yaml
    alignc plan specs/quickstart.yaml --nodes
    alignc plan specs/quickstart.yaml --select '+weak_best[seed=0]'
    alignc plan specs/quickstart.yaml --format json | jq '.nodes[].id'
    alignc plan specs/quickstart.yaml --format sbatch --cluster mysite
    alignc plan specs/quickstart.yaml --cluster mysite --out plan.json; alignc submit plan.json
    alignc plan specs/quickstart.yaml --format html > plan.html
    """
    from compiler import emit

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = profile_of(program, cluster)
    on_slurm = form == "sbatch" or cluster is not None
    selected = select_nodes(program, store, selectors)
    made = plan_of(program, store, on_slurm=on_slurm, max_array=profile.max_array_size, selected=selected)
    if out is not None:
        keep_plan(out, made, asked_for(spec, store_path, overrides, selectors, cluster)[0], profile)
    if form == "sbatch":
        click.echo(emit.to_sbatch(made, profile, store))
    elif form == "html":
        from compiler.page import to_html

        click.echo(to_html(made, profile, store))
    elif form == "text":
        click.echo(emit.to_text(made, every_node=every_node))
    else:
        click.echo(emit.DRAWINGS[form](made))
