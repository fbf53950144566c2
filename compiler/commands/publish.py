"""`alignc publish`: bundle a study for others."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from compiler.commands.common import compile_, mended, on_spec, open_store
from runtime.plural import counted


@click.command("publish", short_help="Bundle a study, so that others can reproduce it.")
@click.option(
    "--with",
    "held",
    type=click.Choice(("nothing", "scores", "data", "all")),
    default="scores",
    show_default=True,
    help="Artifacts to hold: none; scores and choices; all but models; all.",
)
@on_spec
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
def command(spec: str, store_path: str, overrides: tuple[str, ...], held: str, folder: str) -> None:
    """Bundle a study: its spec, what made it, its results and, if wanted, its artifacts.

    What runs in the bundle reuses the artifacts that it holds and makes the others again.

    \b
    alignc publish specs/quickstart.yaml quickstart-bundle
    alignc publish specs/quickstart.yaml quickstart-bundle --with all
    """
    from compiler.output.publish import publish

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    words = [os.path.relpath(spec), *(word for each in overrides for word in ("--set", each))]
    with mended():
        artifacts, size = publish(program, store, Path(folder), held, shlex.join(words))  # type: ignore[arg-type]
    click.echo(f"wrote {folder}: {counted(artifacts, 'artifact')}, {size / 1e6:,.1f} MB")
