"""`alignc check`: find every error of a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compiler.commands.common import Selectors, compile_, on_spec, open_store, select_nodes, select_options
from runtime.plural import counted

if TYPE_CHECKING:
    from runtime.store import Store


@click.command("check")
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json", "sarif")),
    default="text",
    show_default=True,
    help="What to print; json and sarif go to standard output, also where the spec is wrong.",
)
@on_spec
@select_options
def command(spec: str, store_path: str, overrides: tuple[str, ...], form: str, selectors: Selectors) -> None:
    """Find every error of a spec, with its place and the way out.

    \b
    alignc check specs/quickstart.yaml
    alignc check specs/quickstart.yaml --set stages.weak_sft.epochs=3
    alignc check specs/quickstart.yaml --select '+weak_best[seed=0]'
    alignc check specs/quickstart.yaml --format sarif > alignc.sarif
    """
    store = open_store(store_path)
    if form != "text":
        _document(spec, overrides, store, form)
        return
    program = compile_(spec, overrides, store)
    selected = select_nodes(program, store, selectors)
    graph = program.graph
    told = [(graph.by_stage, "stage"), (graph.nodes, "node"), (program.tables, "table")]
    click.echo(f"{spec}: right; {', '.join(counted(len(some), noun) for some, noun in told)}")
    if selected is not None:
        chosen = {graph.nodes[i].stage for i in selected}
        click.echo(f"selected: {counted(len(chosen), 'stage')}, {counted(len(selected), 'node')}")


def _document(spec: str, overrides: tuple[str, ...], store: Store, form: str) -> None:
    """Print the findings for another program; exits with 2 where there are errors, as in words."""
    import json

    from compiler.errors import SpecError
    from compiler.manual.findings import to_json, to_sarif
    from compiler.program import compile_spec

    wrong = False
    try:
        found = compile_spec(spec, overrides, store.root / ".fingerprints.json").warnings
    except SpecError as error:
        found, wrong = error.diagnostics, True
    document = to_json(spec, found) if form == "json" else to_sarif(spec, found)
    click.echo(json.dumps(document, indent=2))
    if wrong:
        click.get_current_context().exit(2)
