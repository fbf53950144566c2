"""`alignc submit`: submit to Slurm."""

from __future__ import annotations

import click

from compiler.commands.common import (
    Selectors,
    asked_for,
    cluster_option,
    compile_,
    go_to_login,
    hold_promise,
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


@click.command("submit", short_help="Submit to Slurm what is neither done nor queued.")
@cluster_option
@on_spec
@select_options
def command(
    spec: str, store_path: str, overrides: tuple[str, ...], selectors: Selectors, cluster: str | None
) -> None:
    """Submit to Slurm what is neither done nor queued; may be repeated at any time.

    \b
    alignc submit specs/quickstart.yaml --cluster mysite --store /shared/me/store
    alignc submit specs/quickstart.yaml --cluster mysite --select state:failed
    alignc submit specs/quickstart.yaml --cluster me@login.site.org
    alignc submit plan.json      what `alignc plan --out plan.json` showed, or nothing
    alignc status specs/quickstart.yaml --store /shared/me/store
    """
    from compiler.planning.promise import SUFFIX
    from compiler.slurm.submission import require_slurm

    go_to_login(spec, cluster, copies=not spec.endswith(SUFFIX))  # a plan on file is on the host
    require_slurm()
    asked, promised = asked_for(spec, store_path, overrides, selectors, cluster)
    store = open_store(asked.store)
    program = compile_(asked.spec, asked.overrides, store)
    profile = profile_of(program, asked.cluster)
    program = with_prices(program, profile)
    with submitting(store):
        selected = select_nodes(program, store, Selectors(asked.select, asked.exclude))
        made = plan_to_submit(program, store, profile, selected)
        hold_promise(promised, made, profile)
        made = with_estimates(made, store, profile)
        remember_plan(made, store)
        submit_plan(made, store, profile)
    if not made.jobs:
        queued = f", {made.estimate.wait} queued or running" if made.estimate.wait else ""
        click.echo(f"nothing to submit: {made.estimate.reuse} nodes are done{queued}")
