"""`alignc power`: how many prompts, and dollars, tell a difference of so many points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from compiler.commands.common import mended

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("power", short_help="How many prompts, and dollars, tell a difference of win rates.")
@click.option(
    "--difference", type=click.FloatRange(0, 100, min_open=True), required=True, help="In points, such as 5."
)
@click.option(
    "--power",
    "wanted",
    type=click.FloatRange(0.05, 0.999),
    default=0.8,
    show_default=True,
    help="How probably it shall be found.",
)
@click.option(
    "--level",
    type=click.FloatRange(0.5, 0.9999),
    default=0.95,
    show_default=True,
    help="Of the interval that shall exclude 0.",
)
@click.option(
    "--correlation",
    type=click.FloatRange(-1, 1),
    help="Of two models' scores on the same prompts; two files tell it. Otherwise 0.",
)
@click.option(
    "--prompts", type=click.IntRange(2), default=805, show_default=True, help="What can so many tell?"
)
@click.option("--judge", metavar="MODEL", help="A name of the price table, to count dollars.")
@click.option("--input-tokens", type=click.IntRange(1), help="Of one comparison; files with texts tell it.")
@click.option("--output-tokens", type=click.IntRange(1), help="Of one verdict.")
@click.option(
    "--times",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Verdicts on a pair; 2: both orders.",
)
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@click.argument("annotations", nargs=-1, type=FILE)
def command(form: str, **asked: Any) -> None:
    """Say how many prompts, and dollars, it takes to tell a true difference of win rates.

    Annotations of one or two models, in AlpacaEval's form, tell how much their scores vary and go
    together, and what a comparison cost; without them verdicts are taken to vary as much as they can.

    \b
    alignc power --difference 5
    alignc power --difference 2 mine.json theirs.json
    alignc power --difference 5 --judge gpt-4o --input-tokens 1000 --times 2
    """
    from compiler.power import Asked, plan, to_json, to_text

    with mended():
        found = plan(Asked(**asked))
    click.echo(json.dumps(to_json(found), indent=2) if form == "json" else to_text(found))
