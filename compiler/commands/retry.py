"""`alignc retry`: submit again what failed, and all that depends on it."""

from __future__ import annotations

import click

from compiler.commands.common import (
    Selectors,
    cluster_option,
    compile_,
    go_to_login,
    on_spec,
    open_store,
    plan_to_submit,
    profile_of,
    remember_plan,
    select_nodes,
    select_options,
    submit_plan,
    submitting,
    with_estimates,
    with_prices,
)
from compiler.errors import UsageError


@click.command("retry")
@click.option("--failed", is_flag=True, help="Every node that failed or was lost.")
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
    failed: bool,
    cluster: str | None,
) -> None:
    """Forget how nodes failed, and submit exactly these and what depends on them.

    \b
    alignc retry specs/quickstart.yaml --failed
    alignc retry specs/quickstart.yaml 'tune[seed=0]' --cluster mysite
    """
    from dataclasses import replace

    from compiler.slurm.cancel import with_dependents
    from compiler.slurm.retry import forget_failures
    from compiler.slurm.submission import require_slurm

    named = (*nodes, *(["state:failed", "state:lost"] if failed else []), *selectors.select)
    if not named:
        raise UsageError("name the nodes to submit again, or say `--failed`")
    go_to_login(spec, cluster)
    require_slurm()
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = profile_of(program, cluster)
    program = with_prices(program, profile)
    with submitting(store):
        found = select_nodes(program, store, replace(selectors, select=named))
        chosen = with_dependents(program.graph.nodes, found or ())
        made = plan_to_submit(program, store, profile, chosen, force=True)
        made = with_estimates(made, store, profile)
        remember_plan(made, store)
        forget_failures(store, [program.identities[i].asked for i in made.to_run()])
        submit_plan(made, store, profile)
    if not made.jobs:
        click.echo("nothing to submit")
