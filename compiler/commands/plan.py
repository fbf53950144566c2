"""`alignc plan`: show what would run and why."""

from __future__ import annotations

import json
import sys

import click

from compiler.commands.common import (
    Selectors,
    asked_for,
    cluster_option,
    compile_,
    costs_of,
    go_to_login,
    keep_plan,
    on_spec,
    open_store,
    plan_of,
    profile_of,
    select_nodes,
    select_options,
)

FORMATS = ("text", "json", "dot", "mermaid", "sbatch", "html")


@click.command("plan", short_help="Show what would run, why, and what it costs.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="What to print."
)
@cluster_option
@click.option("--nodes", "every_node", is_flag=True, help="A line for every node, not for every stage.")
@click.option(
    "--cost", "show_cost", is_flag=True, help="Also what each stage will cost, and how that is known."
)
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
    show_cost: bool,
    out: str | None,
) -> None:
    """Show what would run, why, and what it will cost, before anything runs; touches nothing.

    Exits with 1 where that is over the budget.

    \b
    alignc plan specs/quickstart.yaml
    alignc plan specs/quickstart.yaml --nodes
    alignc plan specs/quickstart.yaml --select '+weak_best[seed=0]'
    alignc plan specs/quickstart.yaml --cost
    alignc plan specs/quickstart.yaml --format json | jq '.nodes[].id'
    alignc plan specs/quickstart.yaml --format sbatch --cluster mysite
    alignc plan specs/quickstart.yaml --cluster mysite --out plan.json; alignc submit plan.json
    alignc plan specs/quickstart.yaml --format html > plan.html
    """
    from compiler.cost import table
    from compiler.output import emit
    from compiler.planning.beside import side_by_side
    from compiler.planning.place import placed, require_places
    from compiler.slurm.submission import max_array_size

    go_to_login(spec, cluster)
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = profile_of(program, cluster)
    program = placed(program, profile)
    on_slurm = form == "sbatch" or cluster is not None
    selected = select_nodes(program, store, selectors)
    most = max_array_size(profile)
    policy = profile if on_slurm or program.spec.cluster is not None else None
    made = plan_of(program, store, on_slurm=on_slurm, max_array=most, selected=selected, profile=policy)
    require_places(made, profile)
    made = side_by_side(made, profile)
    if out is not None:
        keep_plan(out, made, asked_for(spec, store_path, overrides, selectors, cluster)[0], profile)
    costs, budget = costs_of(made, store, profile)
    if form == "sbatch":
        click.echo(emit.to_sbatch(made, profile, store))
    elif form == "html":
        from compiler.output.page import CostWords, to_html

        nodes = {index: table.in_words(cost) for index, cost in costs.nodes.items()}
        words = CostWords(table.summary(made, costs, budget), table.stage_words(made, costs), nodes)
        click.echo(to_html(made, profile, store, words))
    elif form == "text":
        hours = {made.steps[i].node.id: cost.gpu_hours.likely for i, cost in costs.nodes.items()}
        text = emit.to_text(made, every_node=every_node, gpu_hours=hours)
        click.echo("\n".join([text, *table.summary(made, costs, budget)]))
        if show_cost and costs.nodes:
            click.echo("\n" + table.by_stage(made, costs))
    elif form == "json":
        told = emit.plan_json(made)
        table.add_json(made, told, costs, budget)
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        click.echo(emit.DRAWINGS[form](made))
    if any(held.over for held in budget):
        sys.exit(1)
