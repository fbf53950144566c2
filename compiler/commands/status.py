"""`alignc status`: how far an experiment is."""

from __future__ import annotations

import sys

import click

from compiler.commands.common import (
    Selectors,
    cluster_option,
    compile_,
    go_to_login,
    history_of,
    look_once,
    on_spec,
    open_store,
    select_nodes,
    select_options,
)
from compiler.errors import UsageError


@click.command("status")
@click.option("--nodes", "every_node", is_flag=True, help="A line for every node, not for every stage.")
@click.option("--watch", "-w", is_flag=True, help="Look again until nothing more happens by itself.")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@cluster_option
@on_spec
@select_options
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    selectors: Selectors,
    every_node: bool,
    watch: bool,
    cluster: str | None,
    form: str,
) -> None:
    """Tell how far an experiment is: done, running, queued, unknown, failed, lost, blocked.

    \b
    alignc status specs/quickstart.yaml
    alignc status specs/quickstart.yaml --watch --cluster mysite
    alignc status specs/quickstart.yaml --nodes --select 'state:failed|blocked'
    """
    from compiler.watching.status import report, to_json, to_text

    if watch and (every_node or form == "json"):
        raise UsageError("`--watch` shows stages, nodes and logs: leave `--nodes` and `--format` out")
    go_to_login(spec, cluster, copies=False)
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    selected = select_nodes(program, store, selectors)
    usual = history_of(store)
    if watch:
        from compiler.watching.screen import watch_live
        from compiler.watching.watch import Watcher, watch_plain

        watcher = Watcher(program, overrides, store, selected, usual)
        live = sys.stdout.isatty() and sys.stdin.isatty()
        sys.exit(0 if (watch_live if live else watch_plain)(watcher) else 1)
    told = report(program, store, look_once(store), usual=usual, selected=selected)
    click.echo(to_json(told) if form == "json" else to_text(told, every_node=every_node))
