"""`alignc run`: run a spec on this machine."""

from __future__ import annotations

import sys

import click

from compiler.commands.common import (
    Selectors,
    asked_for,
    compile_,
    hold_promise,
    local_profile,
    on_spec,
    open_store,
    plan_of,
    print_tables,
    profile_of,
    remember_plan,
    select_nodes,
    select_options,
    tell_blocked,
    with_estimates,
    with_prices,
    with_tables,
)
from runtime.plural import counted


@click.command("run")
@click.option("--cpus", type=click.IntRange(min=1), help="CPU cores to use at once; all by default.")
@on_spec
@select_options
def command(
    spec: str, store_path: str, overrides: tuple[str, ...], selectors: Selectors, cpus: int | None
) -> None:
    """Run a spec on this machine; goes on where an earlier run stopped.

    \b
    alignc run specs/quickstart.yaml
    alignc run specs/quickstart.yaml --set 'axes.seed=[0]' --store /scratch/me/store
    alignc run specs/quickstart.yaml --select '+weak_test[seed=0]'
    alignc run plan.json      what `alignc plan --out plan.json` showed, or nothing
    """
    from dataclasses import replace

    from compiler.local import LocalRun, machine
    from compiler.screen import watch_run

    asked, promised = asked_for(spec, store_path, overrides, selectors)
    store = open_store(asked.store)
    program = compile_(asked.spec, asked.overrides, store)
    profile = local_profile(program)
    selected = select_nodes(program, store, Selectors(asked.select, asked.exclude))
    made = plan_of(with_prices(program, profile), store, selected=selected)
    hold_promise(promised, made, profile_of(program, asked.cluster))
    made = with_estimates(made, store, profile)
    remember_plan(made, store)
    capacity = machine() if cpus is None else replace(machine(), cpus=cpus)
    local = LocalRun(made, store, capacity)
    finished = watch_run(local, store)
    bad = sum(how != "sealed" for how in local.results.values())
    if not finished:
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(130)
    blocked = tell_blocked(made, "run")
    if bad:
        click.echo(f"{counted(bad, 'node')} not made; `alignc logs {spec} NODE` tells more", err=True)
    if bad or blocked:
        sys.exit(1)
    print_tables(with_tables(program, selected), store)
