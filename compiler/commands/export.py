"""`alignc export`: leave with plain scripts."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.commands.common import (
    Selectors,
    compile_,
    costs_of,
    on_spec,
    open_store,
    profile_of,
    select_nodes,
    select_options,
    tell_blocked,
)
from runtime.plural import counted


@click.command("export", short_help="Write plain sbatch scripts that work without the compiler.")
@click.option("--cluster", metavar="PROFILE", help="Cluster profile: a name in specs/clusters, or a file.")
@click.option("--missing", is_flag=True, help="Only what is not in the store yet.")
@on_spec
@select_options
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    selectors: Selectors,
    cluster: str | None,
    missing: bool,
    folder: str,
) -> None:
    """Write plain sbatch scripts that work without the compiler, with a submit.sh and a run.sh.

    \b
    alignc export specs/quickstart.yaml scripts --cluster mysite
    scripts/submit.sh --account=mine        on Slurm
    alignc export specs/quickstart.yaml scripts --select '+weak_test[seed=0]'
    scripts/run.sh && scripts/results.sh    on this machine
    """
    from dataclasses import replace

    from compiler.cost.table import kept
    from compiler.errors import UsageError
    from compiler.output.export import write_export
    from compiler.planning.place import placed, require_places
    from compiler.planning.plan import State, make_plan
    from compiler.slurm.submission import max_array_size

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = profile_of(program, cluster)
    program = placed(program, profile)
    # The scripts may be run at any later time, so what is queued or failed today does not count.
    selected = select_nodes(program, store, selectors)
    keys = program.keys
    asked = set(keys) if selected is None else {keys[i] for i in selected}
    state = State(sealed=store.sealed() if missing else store.sealed() - asked)
    made = make_plan(program, state, max_array=max_array_size(profile), selected=selected)
    if tell_blocked(made, "exported"):
        raise UsageError("nothing was exported")
    if not made.shown():
        raise UsageError("there is nothing to export: no stages, or none selected")
    if not made.jobs:
        raise UsageError(
            f"nothing is missing in {store.root}: export all with the same words, `--missing` left out"
        )
    require_places(made, profile)
    made = replace(made, estimated=kept(made, costs_of(made, store, profile)[0]))
    write_export(made, profile, store, Path(folder))
    click.echo(f"wrote {folder}: {counted(len(made.jobs), 'job')} of {counted(len(made.to_run()), 'node')}")
    click.echo(f"{folder}/submit.sh submits them, {folder}/run.sh runs them on this machine")
