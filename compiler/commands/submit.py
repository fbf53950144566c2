"""`alignc submit`: submit to Slurm."""

from __future__ import annotations

import click

from compiler.commands.common import (
    compile_,
    on_spec,
    open_store,
    plan_of,
    profile_of,
    require_budget,
    with_prices,
)


@click.command("submit")
@click.option("--cluster", metavar="PROFILE", help="Cluster profile: a name in specs/clusters, or a file.")
@on_spec
def command(spec: str, store_path: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Submit to Slurm what is neither done nor queued; may be repeated at any time.

    \b
    alignc submit specs/quickstart.yaml --cluster mysite --store /shared/me/store
    alignc status specs/quickstart.yaml --store /shared/me/store
    """
    from compiler import slurm

    slurm.require_slurm()
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = profile_of(program, cluster)
    program = with_prices(program, profile)
    lock = slurm.submission_lock(store)
    try:
        made = plan_of(program, store, on_slurm=True, max_array=profile.max_array_size)
        require_budget(made, store, profile)
        for done in slurm.submit(made, profile, store):
            tasks = f"an array of {done.tasks}" if done.tasks > 1 else "one job"
            click.echo(f"submitted {done.name} as Slurm job {done.slurm_id} ({tasks})")
    finally:
        lock.release()
    for step in made.steps:
        if step.action == "blocked":
            click.echo(f"not submitted: {step.node.id}: {step.why}", err=True)
    if not made.jobs:
        queued = f", {made.estimate.wait} queued or running" if made.estimate.wait else ""
        click.echo(f"nothing to submit: {made.estimate.reuse} nodes are done{queued}")
