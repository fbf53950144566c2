"""`alignc preflight`: a look at trainings before any GPU is asked for."""

from __future__ import annotations

import json
import os
import sys

import click

from compiler.commands.common import (
    Selectors,
    cluster_option,
    compile_,
    go_to_login,
    on_spec,
    open_store,
    profile_of,
    select_nodes,
)


@click.command("preflight", short_help="Look at a training's data, masks, memory and time before it runs.")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@click.option("--samples", type=click.IntRange(0), default=3, show_default=True, help="Rows to show.")
@cluster_option
@on_spec
@click.argument("nodes", nargs=-1)
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    nodes: tuple[str, ...],
    form: str,
    samples: int,
    cluster: str | None,
) -> None:
    """Tokenize what is to be trained on, and show it with its loss mask, lengths, memory and time.

    Needs no GPU. Looks at all trainings whose inputs are in the store, or at the named NODES. Exits
    with 1 where one would fail.

    \b
    alignc preflight specs/quickstart.yaml
    alignc preflight specs/quickstart.yaml base --samples 10
    alignc preflight specs/quickstart.yaml 'weak_sft[seed=0]' --cluster mysite --format json
    """
    from compiler.errors import UsageError
    from compiler.planning.place import placed
    from compiler.preflight import gather, to_json, to_text, trainings, waiting_words

    go_to_login(spec, cluster)
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    profile = profile_of(program, cluster)
    program = placed(program, profile)
    chosen = trainings(program, select_nodes(program, store, Selectors(nodes)) if nodes else None)
    looked, waiting = gather(program, store, chosen, profile, samples)
    if not looked:
        raise UsageError("\n".join(waiting_words(one, spec) for one in waiting))
    if form == "json":
        click.echo(json.dumps(to_json(looked, waiting), indent=2, ensure_ascii=False))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        click.echo("\n\n".join(to_text(one, colour=colour) for one in looked))
        for one in waiting:
            click.echo(waiting_words(one, spec), err=True)
    if any(one.report.refused for one in looked):
        sys.exit(1)
