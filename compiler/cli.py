"""The `alignc` command: the only module that prints and chooses exit codes.

A user's mistake is told in words (exit code 2); a failed experiment exits with 1; a defect of alignc
keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.errors import SpecError, UsageError, render

if TYPE_CHECKING:
    from compiler.plan import Plan, State
    from compiler.program import Program
    from runtime.store import Store

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Alignc(click.Group):
    """Turns what a user can mend into words and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SpecError as error:
            for diagnostic in error.diagnostics:
                click.echo(render(diagnostic, error.texts) + "\n", err=True)
            count = len(error.diagnostics)
            click.echo(f"{count} problem{'s' * (count != 1)} found", err=True)
            ctx.exit(2)
        except UsageError as error:
            click.echo(f"alignc: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            sys.stderr.close()  # whoever read us has gone
            ctx.exit(1)


@click.group(cls=Alignc, context_settings=CONTEXT)
@click.version_option(package_name="alignc")
def main() -> None:
    """Compile typed YAML experiment specs to graphs of jobs, run them, and print the tables.

    \b
    alignc check  specs/quickstart.yaml     is the spec right?
    alignc plan   specs/quickstart.yaml     what would run, and why?
    alignc run    specs/quickstart.yaml     run it on this machine
    alignc submit specs/quickstart.yaml     run it on Slurm
    alignc status specs/quickstart.yaml     how far is it?
    alignc results specs/quickstart.yaml    tables, figures, report

    \b
    Shell completion: eval "$(_ALIGNC_COMPLETE=bash_source alignc)"   (or zsh_source, fish_source)
    """


def on_spec(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options of every command that reads a spec."""
    for decorate in (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="A.B=C",
            help="Override a value of the spec; the value is YAML. May be given several times.",
        ),
        click.option(
            "--store",
            "store_path",
            envvar="ALIGNC_STORE",
            default=".alignc",
            show_default=True,
            metavar="DIR",
            help="Where artifacts are kept (also ALIGNC_STORE).",
            type=click.Path(file_okay=False),
        ),
        click.argument("spec", type=click.Path(dir_okay=False)),
    ):
        function = decorate(function)
    return function


def _store(path: str) -> Store:
    from runtime.store import Store

    return Store(Path(path).resolve())


def _compile(spec: str, overrides: tuple[str, ...], store: Store) -> Program:
    from compiler.program import compile_spec

    program = compile_spec(spec, overrides, store.root / ".fingerprints.json")
    for warning in program.warnings:
        click.echo(render(warning, program.texts), err=True)
    return program


def _queued(store: Store) -> dict[str, str]:
    """Slurm jobs of keys in the queue; none where this store was never submitted from."""
    from compiler.slurm import queue

    return {key: task.slurm_id for key, task in queue(store).items()}


def _state(program: Program, store: Store) -> State:
    from compiler.survey import survey

    return survey(store, program.keys, _queued(store))


def _plan(program: Program, store: Store, *, on_slurm: bool = False, max_array: int | None = None) -> Plan:
    from compiler.plan import make_plan

    return make_plan(program, _state(program, store), on_slurm=on_slurm, max_array=max_array)


def _profile(program: Program, name: str | None) -> Any:
    from compiler.cluster import load_profile

    named = program.spec.cluster
    if name is None and named is not None:
        name = str(named.value)
    return load_profile(name, Path(program.spec.path))


@main.command()
@on_spec
def check(spec: str, store_path: str, overrides: tuple[str, ...]) -> None:
    """Find every error of a spec, with its place and the way out.

    \b
    alignc check specs/quickstart.yaml
    alignc check specs/quickstart.yaml --set stages.weak_sft.epochs=3
    """
    program = _compile(spec, overrides, _store(store_path))
    stages = len(program.graph.by_stage)
    click.echo(
        f"{spec}: right; {stages} stages, {len(program.graph.nodes)} nodes, {len(program.tables)} tables"
    )


FORMATS = ("text", "json", "dot", "mermaid", "sbatch")


@main.command()
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="What to print."
)
@click.option("--cluster", metavar="PROFILE", help="Cluster profile for sbatch texts.")
@click.option("--nodes", "every_node", is_flag=True, help="A line for every node, not for every stage.")
@on_spec
def plan(
    spec: str, store_path: str, overrides: tuple[str, ...], form: str, cluster: str | None, every_node: bool
) -> None:
    """Show what would run and why, before anything runs; touches nothing.

    \b
    alignc plan specs/quickstart.yaml
    alignc plan specs/quickstart.yaml --nodes
    alignc plan specs/quickstart.yaml --format json | jq '.nodes[].id'
    alignc plan specs/quickstart.yaml --format sbatch --cluster mysite
    """
    from compiler import emit

    store = _store(store_path)
    program = _compile(spec, overrides, store)
    profile = _profile(program, cluster)
    on_slurm = form == "sbatch" or cluster is not None
    made = _plan(program, store, on_slurm=on_slurm, max_array=profile.max_array_size)
    if form == "sbatch":
        click.echo(emit.to_sbatch(made, profile, store))
    elif form == "text":
        click.echo(emit.to_text(made, every_node=every_node))
    else:
        click.echo(emit.DRAWINGS[form](made))


@main.command()
@click.option("--cpus", type=click.IntRange(min=1), help="CPU cores to use at once; all by default.")
@on_spec
def run(spec: str, store_path: str, overrides: tuple[str, ...], cpus: int | None) -> None:
    """Run a spec on this machine; goes on where an earlier run stopped.

    \b
    alignc run specs/quickstart.yaml
    alignc run specs/quickstart.yaml --set 'axes.seed=[0]' --store /scratch/me/store
    """
    from dataclasses import replace

    from compiler.local import LocalRun, machine
    from compiler.screen import watch_run

    store = _store(store_path)
    program = _compile(spec, overrides, store)
    made = _plan(program, store)
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
    _print_tables(program, store)


@main.command()
@click.option("--cluster", metavar="PROFILE", help="Cluster profile: a name in specs/clusters, or a file.")
@on_spec
def submit(spec: str, store_path: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Submit to Slurm what is neither done nor queued; may be repeated at any time.

    \b
    alignc submit specs/quickstart.yaml --cluster mysite --store /shared/me/store
    alignc status specs/quickstart.yaml --store /shared/me/store
    """
    from compiler import slurm

    slurm.require_slurm()
    store = _store(store_path)
    program = _compile(spec, overrides, store)
    profile = _profile(program, cluster)
    lock = slurm.submission_lock(store)
    try:
        made = _plan(program, store, on_slurm=True, max_array=profile.max_array_size)
        _hold_budget(made)
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


def _hold_budget(made: Plan) -> None:
    limit, asked = made.program.spec.budget.gpu_hours, made.estimate.gpu_hours_at_most
    if limit is not None and asked > limit:
        raise UsageError(
            f"the jobs may use {asked:g} GPU-hours by their time limits, over the budget of {limit:g}: "
            "lower `resources.minutes` of some stages, or raise `budget.gpu_hours`"
        )


@main.command()
@click.option("--nodes", "every_node", is_flag=True, help="A line for every node, not for every stage.")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@on_spec
def status(spec: str, store_path: str, overrides: tuple[str, ...], every_node: bool, form: str) -> None:
    """Tell how far an experiment is: done, running, queued, failed, blocked.

    \b
    alignc status specs/quickstart.yaml
    alignc status specs/quickstart.yaml --nodes
    """
    from compiler import status as told
    from compiler.slurm import queue

    store = _store(store_path)
    program = _compile(spec, overrides, store)
    states = told.node_states(program, store, queue(store))
    click.echo(
        told.to_json(states) if form == "json" else told.to_text(program, states, every_node=every_node)
    )


@main.command()
@click.option("--lines", "-n", type=click.IntRange(min=1), help="Only the last lines.")
@on_spec
@click.argument("node")
def logs(spec: str, store_path: str, overrides: tuple[str, ...], node: str, lines: int | None) -> None:
    """Print what the tries of a node printed, and how the last one failed.

    \b
    alignc logs specs/quickstart.yaml 'tune[seed=0,learning_rate=0.001]'
    alignc logs specs/quickstart.yaml corpus -n 20
    """
    from compiler.errors import near

    store = _store(store_path)
    program = _compile(spec, overrides, store)
    keys = dict(zip((n.id for n in program.graph.nodes), program.keys, strict=True))
    if node not in keys:
        raise UsageError(f"there is no node {node!r}; {near(node, keys)}")
    path = store.log(keys[node])
    if not path.exists():
        raise UsageError(f"{node} has not been started, so there is no log")
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    click.echo("\n".join(text[-lines:] if lines else text))


@main.command()
@click.option(
    "--out", type=click.Path(file_okay=False), help="Folder to write; results/EXPERIMENT by default."
)
@on_spec
def results(spec: str, store_path: str, overrides: tuple[str, ...], out: str | None) -> None:
    """Print the tables, and write them as Markdown, CSV, LaTeX, figures and one HTML page.

    \b
    alignc results specs/quickstart.yaml
    alignc results specs/quickstart.yaml --out paper/tables
    """
    from compiler.describe import describe_tables
    from runtime.results.write import write_results

    store = _store(store_path)
    program = _compile(spec, overrides, store)
    if not program.tables:
        raise UsageError(f"{spec} has no `tables`")
    _print_tables(program, store)
    folder = Path(out) if out else Path("results") / program.spec.experiment
    written = write_results(store, describe_tables(program), folder)
    for path in written:
        click.echo(f"wrote {path}")
    for message in written.messages:
        click.echo(message, err=True)


def _print_tables(program: Program, store: Store) -> None:
    from compiler.describe import describe_tables
    from runtime.results.load import load_tables
    from runtime.results.text import render_text

    for table in load_tables(store, describe_tables(program)):
        click.echo(render_text(table))
        click.echo()


if __name__ == "__main__":
    main()
