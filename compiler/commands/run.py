"""`alignc run`: run a spec on this machine."""

from __future__ import annotations

import sys

import click

from compiler.commands.common import (
    compile_,
    local_profile,
    on_spec,
    open_store,
    plan_of,
    print_tables,
    require_budget,
    with_prices,
)


@click.command("run")
@click.option("--cpus", type=click.IntRange(min=1), help="CPU cores to use at once; all by default.")
@on_spec
def command(spec: str, store_path: str, overrides: tuple[str, ...], cpus: int | None) -> None:
    """Run a spec on this machine; goes on where an earlier run stopped.

    \b
    alignc run specs/quickstart.yaml
    alignc run specs/quickstart.yaml --set 'axes.seed=[0]' --store /scratch/me/store
    """
    from dataclasses import replace

    from compiler.local import LocalRun, machine
    from compiler.screen import watch_run

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = local_profile(program)
    made = plan_of(with_prices(program, profile), store)
    require_budget(made, store, profile)
    capacity = machine() if cpus is None else replace(machine(), cpus=cpus)
    local = LocalRun(made, store, capacity)
    finished = watch_run(local, store)
    bad = sum(how != "sealed" for how in local.results.values())
    if not finished:
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(130)
    if bad:
        click.echo(f"{bad} nodes not made; `alignc logs {spec} NODE` tells more", err=True)
        sys.exit(1)
    print_tables(program, store)
