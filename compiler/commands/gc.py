"""`alignc gc`: remove what no spec needs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from compiler.commands.common import compile_, open_store, set_option, store_option

if TYPE_CHECKING:
    from compiler.garbage import Entry
    from runtime.store import Store


@click.command("gc")
@click.argument("specs", nargs=-1, metavar="SPEC...", type=click.Path(dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option("--keep-days", type=click.FloatRange(min=0), default=0.0, help="Keep what is younger.")
@click.option("--all", "everything", is_flag=True, help="Name no spec: nothing is needed.")
@click.option("--states", is_flag=True, help="Also states of finished trainings, to go on from later.")
@click.option("--answers", is_flag=True, help="Also answers of paid models, which jobs share.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@set_option
def command(
    specs: tuple[str, ...],
    store_path: str,
    overrides: tuple[str, ...],
    dry_run: bool,
    keep_days: float,
    everything: bool,
    states: bool,
    answers: bool,
    yes: bool,
) -> None:
    """Remove from the store what the named specs do not need.

    What somebody works on, or has queued in Slurm, stays, with all that it is made from.

    \b
    alignc gc specs/*.yaml --dry-run
    alignc gc specs/quickstart.yaml specs/other.yaml --keep-days 7
    """
    from compiler import garbage
    from compiler.errors import UsageError
    from compiler.slurm.submission import submission_lock

    if bool(specs) == everything:
        raise UsageError("name every spec whose artifacts shall stay, or say `--all` to remove everything")
    store = open_store(store_path)
    finished = store.sealed() if states else frozenset[str]()
    needs = garbage.needs_of((compile_(spec, overrides, store) for spec in specs), finished)
    needs = replace(needs, answers=not answers)
    found = garbage.find(store, needs, keep_days)
    click.echo(garbage.to_text(found))
    if dry_run or not found.entries or not (yes or click.confirm("Remove it?")):
        return
    lock = submission_lock(store)
    try:
        shown = {entry.path for entry in found.entries}
        # Looked at once more: work may have begun while the question stood.
        again = [e for e in garbage.find(store, needs, keep_days).entries if e.path in shown]
        problems = _remove(store, again)
    finally:
        lock.release()
    click.echo(f"removed {len(again) - problems} of {len(shown)}")
    if problems:
        sys.exit(1)


def _remove(store: Store, entries: Iterable[Entry]) -> int:
    """Remove entries; tells and counts those that could not be."""
    from compiler.garbage import remove

    problems = 0
    for entry in entries:
        try:
            remove(store, entry)
        except OSError as error:
            problems += 1
            click.echo(f"{entry.path} stays: {error.strerror}", err=True)
    return problems
