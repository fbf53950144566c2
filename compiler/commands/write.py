"""`alignc write`: artifacts in the forms of other programs."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.commands.common import Selectors, compile_, mended, on_spec, open_store, select_nodes
from runtime.plural import counted


@click.command("write", short_help="Write answers, verdicts, scores or pairs in the forms of other programs.")
@click.option(
    "--as",
    "form",
    type=click.Choice(
        ("model_outputs", "annotations", "leaderboard", "completions", "preferences", "messages")
    ),
    required=True,
    help="AlpacaEval's JSON and CSV; prompt and completion; prompt, chosen, rejected; either as messages.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option("--output", help="Which output of the node, where several would do.")
@click.option("--name", default="", help="The model's name in the file; its node's by default.")
@click.option(
    "--onto",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A leaderboard.csv whose rows shall be in the new one too.",
)
@on_spec
@click.argument("nodes", nargs=-1, required=True)
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    nodes: tuple[str, ...],
    form: str,
    out: Path,
    output: str | None,
    name: str,
    onto: Path | None,
) -> None:
    """Write what nodes made in the forms that AlpacaEval, TRL and others read.

    \b
    alignc write specs/quickstart.yaml 'samples[seed=0]' --as model_outputs --out model_outputs.json
    alignc write specs/quickstart.yaml 'weak_test[seed=0]' --as annotations --out annotations.json
    alignc write specs/quickstart.yaml weak_test strong_test --as leaderboard --out leaderboard.csv
    alignc write specs/quickstart.yaml weak_test --as leaderboard --onto theirs.csv --out all.csv
    alignc write specs/quickstart.yaml 'labels[seed=0]' --as messages --out pairs.jsonl
    """
    from compiler.errors import UsageError
    from compiler.output.write import write

    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    chosen = sorted(select_nodes(program, store, Selectors(nodes)) or ())
    if onto and form != "leaderboard":
        raise UsageError("`--onto` goes with `--as leaderboard`")
    if not chosen:
        raise UsageError("nothing was written")
    with mended():
        rows = write(program, store, chosen, form, output, name, out, onto)
    click.echo(f"wrote {out}: {counted(rows, 'row')}")
