"""`alignc critics`: biases, consistency and agreement of critics, from what they have said already."""

from __future__ import annotations

import json

import click

from compiler.commands.common import (
    Selectors,
    compile_,
    mended,
    open_store,
    select_nodes,
    select_options,
    set_option,
    store_option,
)

SPECS = (".yaml", ".yml")


@click.command("critics", short_help="Bias, consistency and agreement of critics, and with people.")
@click.option(
    "--format", "form", type=click.Choice(("text", "json", "csv")), default="text", show_default=True
)
@click.option(
    "--human", "humans", multiple=True, metavar="FILE[:FIELD]", help="Labels of people; may be repeated."
)
@click.option("--coin", is_flag=True, help="Verdicts in files were made in AlpacaEval's order, by its coin.")
@store_option
@set_option
@select_options
@click.argument("sources", nargs=-1, required=True, metavar="SPEC|FILE...")
def command(
    form: str,
    humans: tuple[str, ...],
    coin: bool,
    store_path: str,
    overrides: tuple[str, ...],
    selectors: Selectors,
    sources: tuple[str, ...],
) -> None:
    """Tell how far critics can be trusted, from the verdicts of a spec's jobs and of files.

    Nobody is asked anything: sealed jobs of the kinds `label` and `evaluate` are read. A FILE has
    annotations in AlpacaEval's form; NAME=FILE says whose, FILE:FIELD which field has the preference.

    \b
    alignc critics specs/quickstart.yaml
    alignc critics specs/study.yaml --select kind:label --human labels.json
    alignc critics gpt4=annotations.json claude=theirs.json --coin
    alignc critics pairs.jsonl:seed0 pairs.jsonl:seed1 --human pairs.jsonl:person --format csv
    """
    from compiler.critics import Bench, judged, named, to_csv, to_json, to_text

    bench = Bench()
    with mended():
        for source in sources:
            if source.endswith(SPECS):
                store = open_store(store_path)
                program = compile_(source, overrides, store)
                for one in judged(program, store, select_nodes(program, store, selectors)):
                    bench.add_node(one)
            else:
                bench.add_file(named(source), by_coin=coin)
        for human in humans:
            bench.add_people(named(human))
        report = bench.report()
    if form == "json":
        click.echo(json.dumps(to_json(report), indent=2, ensure_ascii=False))
    else:
        click.echo(to_csv(report) if form == "csv" else to_text(report), nl=form == "text")
