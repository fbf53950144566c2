"""`alignc results`: print and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.commands.common import (
    Selectors,
    cluster_option,
    compile_,
    go_to_login,
    on_spec,
    open_store,
    print_tables,
    select_nodes,
    select_options,
    with_tables,
)


@click.command("results", short_help="Print the tables, and write them with figures and a report.")
@click.option(
    "--out", type=click.Path(file_okay=False), help="Folder to write; results/EXPERIMENT by default."
)
@cluster_option
@on_spec
@select_options
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    selectors: Selectors,
    out: str | None,
    cluster: str | None,
) -> None:
    """Print the tables, and write them as Markdown, CSV, LaTeX, figures and one HTML page.

    \b
    alignc results specs/quickstart.yaml
    alignc results specs/quickstart.yaml --out paper/tables
    alignc results specs/quickstart.yaml --select table:main
    """
    from compiler.errors import UsageError
    from runtime.results.write import write_loaded

    go_to_login(spec, cluster, results=out or "")
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    if not program.tables:
        raise UsageError(f"{spec} has no `tables`")
    program = with_tables(program, select_nodes(program, store, selectors), tell=True)
    if not program.tables:
        raise UsageError("no table has all its nodes selected; `--select table:NAME` takes a whole table")
    found = print_tables(program, store)
    folder = Path(out) if out else Path("results") / program.spec.experiment
    written = write_loaded(store, found, folder)
    for path in written:
        click.echo(f"wrote {path}")
    for message in written.messages:
        click.echo(message, err=True)
