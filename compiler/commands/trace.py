"""`alignc trace`: where a number of a table comes from."""

from __future__ import annotations

import json

import click

from compiler.commands.common import compile_, on_spec, open_store


@click.command("trace", short_help="Show the jobs, spec lines and commits behind a number of a table.")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@on_spec
@click.argument("table")
@click.argument("row")
@click.argument("column")
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    table: str,
    row: str,
    column: str,
    form: str,
) -> None:
    """Show what a number was measured by and made from: jobs, keys, lines of the spec, times, commits.

    \b
    alignc trace specs/quickstart.yaml main 'Weak SFT' 'Win rate'
    alignc trace specs/quickstart.yaml main 'Strong SFT' 'Exact match' --format json
    """
    from compiler.errors import UsageError
    from compiler.output.describe import describe_tables
    from runtime.results.everything import load_results
    from runtime.results.trace import NoSuchNumber, trace_json, trace_text

    store = open_store(store_path)
    found = load_results(store, describe_tables(compile_(spec, overrides, store)))
    try:
        if form == "json":
            told = trace_json(found, store, table, row, column)
            click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        else:
            click.echo(trace_text(found, table, row, column))
    except NoSuchNumber as error:
        raise UsageError(str(error)) from error
