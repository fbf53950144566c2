"""What commands share: the options of those that read a spec, and the steps from there to a plan."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.errors import render

if TYPE_CHECKING:
    from compiler.cluster import Profile
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
    from compiler.survey import choices

    # Hardly anything that is made here goes again soon: looking for garbage takes a third of the time.
    gc.disable()
    program = compile_spec(spec, overrides, store.root / ".fingerprints.json", choices(store))
    gc.freeze()
    gc.enable()
    for warning in program.warnings:
        click.echo(render(warning, program.texts), err=True)
    return program


def state_of(program: Program, store: Store) -> State:
    """What the store and the queue know of a program; the queue is empty where there is no Slurm."""
    from compiler.slurm import queue
    from compiler.survey import survey

    return survey(store, program.identities, {key: task.slurm_id for key, task in queue(store).items()})


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


def print_tables(program: Program, store: Store) -> None:
    from compiler.describe import describe_tables
    from runtime.results.load import load_tables
    from runtime.results.text import render_text

    for table in load_tables(store, describe_tables(program)):
        click.echo(render_text(table))
        click.echo()
