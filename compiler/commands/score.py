"""`alignc score`: AlpacaEval's leaderboard figures, with intervals, from files of annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from compiler.commands.common import mended

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("score", short_help="Win rates with intervals, from AlpacaEval's annotations.json.")
@click.option(
    "--format", "form", type=click.Choice(("text", "json", "csv")), default="text", show_default=True
)
@click.option("--reference", type=FILE, help="The baseline's model_outputs.json, if annotations lack texts.")
@click.option("--outputs", multiple=True, type=FILE, help="The model's model_outputs.json, for its lengths.")
@click.option("--name", "names", multiple=True, help="The model's name; else generator_2, or the file's.")
@click.option("--difficulty", type=FILE, help="instruction_difficulty.csv: for the length-controlled rate.")
@click.option("--weights", type=FILE, help="Fitted weights, as AlpacaEval publishes them, to predict from.")
@click.option("--gamed", type=FILE, help="df_gamed.csv: the weights are fitted anew.")
@click.option(
    "--alignment",
    type=click.Choice(("instruction", "position")),
    default="instruction",
    show_default=True,
    help="Whose difficulty a row has: its instruction's; `position`: its place's, as AlpacaEval has it.",
)
@click.option(
    "--as",
    "role",
    type=click.Choice(("models", "seeds", "repeats")),
    default="models",
    show_default=True,
    help="What several files are: models, training seeds of one model, or one model judged again.",
)
@click.option("--resamples", type=click.IntRange(1), default=2000, show_default=True, help="Of a bootstrap.")
@click.argument("annotations", nargs=-1, required=True, type=FILE)
def command(form: str, **asked: Any) -> None:
    """Print AlpacaEval's leaderboard columns with intervals; several models are compared in pairs.

    Of several files each has its own `--outputs` and `--name`, in their order.

    \b
    alignc score annotations.json
    alignc score mine.json theirs.json --format json
    alignc score annotations.json --reference baseline.json --difficulty instruction_difficulty.csv \\
      --weights baseline_gpt4_1106_preview.csv
    alignc score seed0.json seed1.json seed2.json --as seeds
    """
    from compiler.score import Asked, gather, to_json, to_text
    from runtime.interchange.alpaca_eval import leaderboard_csv

    with mended():
        report = gather(Asked(**asked))
    if form == "json":
        click.echo(json.dumps(to_json(report), indent=2, ensure_ascii=False))
    elif form == "csv":
        click.echo(leaderboard_csv({one.name: one.row() for one in report.scores}), nl=False)
    else:
        click.echo(to_text(report))
