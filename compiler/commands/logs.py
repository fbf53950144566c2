"""`alignc logs`: what the tries of nodes printed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from compiler.commands.common import (
    Selectors,
    cluster_option,
    compile_,
    go_to_login,
    on_spec,
    open_store,
    select_nodes,
    select_options,
)
from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.watching.watch import Watcher


@click.command("logs")
@click.option("--lines", "-n", type=click.IntRange(min=1), help="Only the last lines of each.")
@click.option("--follow", "-f", is_flag=True, help="Go on as they grow, until the nodes are done or failed.")
@cluster_option
@on_spec
@click.argument("nodes", nargs=-1)
@select_options
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    selectors: Selectors,
    nodes: tuple[str, ...],
    lines: int | None,
    follow: bool,
    cluster: str | None,
) -> None:
    """Print what the tries of nodes printed, and how the last one failed.

    \b
    alignc logs specs/quickstart.yaml 'tune[seed=0,learning_rate=0.001]'
    alignc logs specs/quickstart.yaml corpus -n 20
    alignc logs specs/quickstart.yaml state:failed
    alignc logs -f specs/quickstart.yaml 'tune[seed=0,learning_rate=0.001]'
    """
    from compiler.watching.watch import Watcher

    selectors = replace(selectors, select=(*nodes, *selectors.select))
    if not selectors.select:
        raise UsageError("name nodes whose logs to print, such as `state:failed`")
    go_to_login(spec, cluster, copies=False)
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    indices = sorted(select_nodes(program, store, selectors) or ())
    if follow:
        _follow(Watcher(program, overrides, store, frozenset(indices), lambda _: None), lines)
        return
    chosen = {program.identities[i].asked: program.graph.nodes[i].id for i in indices}
    started = {key: id_ for key, id_ in chosen.items() if store.log(key).exists()}
    if chosen and not started:
        more = f" (nor have {len(chosen) - 1} more)" if len(chosen) > 1 else ""
        raise UsageError(f"{next(iter(chosen.values()))} has not been started{more}, so there is no log")
    for key, id_ in started.items():
        text = store.log(key).read_text(encoding="utf-8", errors="replace").splitlines()
        title = [f"==> {id_} <=="] if len(started) > 1 else []
        click.echo("\n".join([*title, *(text[-lines:] if lines else text)]))


def _follow(watcher: Watcher, lines: int | None) -> None:
    """Print logs as they grow; a title where it is another's turn. Ctrl-C stops following only."""
    from compiler.watching.follow import follow

    chosen = {i: watcher.program.identities[i].asked for i in sorted(watcher.selected or ())}
    before = ""
    try:
        for node, text in follow(watcher, chosen, lines):
            if len(chosen) > 1 and node != before:
                click.echo(f"==> {node} <==")
            before = node
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        click.echo()
