"""What commands share: the options of those that read a spec, and the steps from there to a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.errors import render

if TYPE_CHECKING:
    from compiler.cluster import Profile
    from compiler.cost.budget import Held
    from compiler.cost.estimate import Costs
    from compiler.plan import Plan, State
    from compiler.program import Program
    from runtime.store import Store


def store_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--store`, for every command that looks into one."""
    return click.option(
        "--store",
        "store_path",
        envvar="ALIGNC_STORE",
        default=".alignc",
        show_default=True,
        metavar="DIR",
        help="Where artifacts are kept (also ALIGNC_STORE).",
        type=click.Path(file_okay=False),
    )(function)


def set_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--set`, for every command that compiles a spec."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="A.B=C",
        help="Override a value of the spec; the value is YAML. May be given several times.",
    )(function)


def on_spec(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options of every command that reads a spec."""
    argument = click.argument("spec", type=click.Path(dir_okay=False))
    return set_option(store_option(argument(function)))


def open_store(path: str) -> Store:
    from runtime.store import Store

    return Store(Path(path).resolve())


def compile_(spec: str, overrides: tuple[str, ...], store: Store) -> Program:
    """The compiled spec; its warnings are printed."""
    from compiler.program import compile_spec

    program = compile_spec(spec, overrides, store.root / ".fingerprints.json")
    for warning in program.warnings:
        click.echo(render(warning, program.texts), err=True)
    return program


def state_of(program: Program, store: Store) -> State:
    """What the store and the queue know of a program; the queue is empty where there is no Slurm."""
    from compiler.slurm import queue
    from compiler.survey import survey

    return survey(store, program.keys, {key: task.slurm_id for key, task in queue(store).items()})


def plan_of(program: Program, store: Store, *, on_slurm: bool = False, max_array: int | None = None) -> Plan:
    from compiler.plan import make_plan

    return make_plan(program, state_of(program, store), on_slurm=on_slurm, max_array=max_array)


def profile_of(program: Program, name: str | None) -> Profile:
    """The cluster profile that is named on the command line, else in the spec, else the empty one."""
    from compiler.cluster import load_profile

    named = program.spec.cluster
    if name is None and named is not None:
        name = str(named.value)
    return load_profile(name, Path(program.spec.path))


def local_profile(program: Program) -> Profile:
    """What the spec's cluster profile says of prices; its hardware is not that of this machine."""
    from compiler.cluster import load_profile
    from compiler.errors import UsageError

    empty = load_profile(None, Path(program.spec.path))
    try:
        return empty.model_copy(update={"prices": profile_of(program, None).prices})
    except UsageError:  # nothing here needs the profile
        return empty


def costs_of(made: Plan, store: Store, profile: Profile) -> tuple[Costs, list[Held]]:
    """What the nodes that are not sealed will cost, and how the budget stands."""
    from compiler.cost.budget import hold
    from compiler.cost.estimate import estimate
    from compiler.cost.facts import gather
    from compiler.cost.prices import read_tables
    from runtime.spending import spent

    sealed = {step.key for step in made.steps if step.action == "reuse"}
    facts = gather(made.program, sealed, store, read_tables(profile.prices))
    costs = estimate(made.program, sealed, facts, profile)
    return costs, hold(made.program, costs, spent(store, made.program.spec.experiment))


def require_budget(made: Plan, store: Store, profile: Profile) -> None:
    """Raise SpecError where the spec's budget does not allow for what is likely to come."""
    from compiler.cost.budget import require

    budget = made.program.spec.budget
    if budget.gpu_hours is not None or budget.usd is not None:
        costs, held = costs_of(made, store, profile)
        require(made.program, costs, held)


def with_prices(program: Program, profile: Profile) -> Program:
    """The program, its llms priced by the tables, so that its jobs count dollars."""
    from compiler.cost.prices import priced, read_tables

    return priced(program, read_tables(profile.prices))


def print_tables(program: Program, store: Store) -> None:
    from compiler.describe import describe_tables
    from runtime.results.load import load_tables
    from runtime.results.text import render_text

    for table in load_tables(store, describe_tables(program)):
        click.echo(render_text(table))
        click.echo()
