"""`alignc diff`: how two experiments differ."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import click

from compiler.commands.common import open_store, set_option, store_option
from compiler.errors import UsageError


@click.command("diff", short_help="Compare two specs as experiments.")
@click.argument("spec_a", type=click.Path(dir_okay=False))
@click.argument("spec_b", type=click.Path(dir_okay=False), required=False)
@click.option("--against", metavar="REV", help="Compare the spec with itself at a git revision.")
@set_option
@click.option("--set-a", "set_a", multiple=True, metavar="A.B=C", help="Like --set, for the first alone.")
@click.option("--set-b", "set_b", multiple=True, metavar="A.B=C", help="Like --set, for the second alone.")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@store_option
def command(
    spec_a: str,
    spec_b: str | None,
    against: str | None,
    overrides: tuple[str, ...],
    set_a: tuple[str, ...],
    set_b: tuple[str, ...],
    form: str,
    store_path: str,
) -> None:
    """Tell how two specs differ as experiments: other work and its cause, other nodes, other tables.

    With --against, the first is the spec as it stood at the revision, the second as it stands now.
    Exits with 0 where both are the same experiment, with 1 where they differ.

    \b
    alignc diff specs/fig3.yaml specs/fig4.yaml
    alignc diff specs/quickstart.yaml --against HEAD~1
    alignc diff specs/quickstart.yaml --set-b stages.weak_sft.epochs=6
    """
    from dataclasses import replace

    from compiler.frontend.revision import at_revision
    from compiler.planning import diff
    from compiler.program import compile_spec

    if spec_b is not None and against is not None:
        raise UsageError("give a second spec or --against, not both")
    if spec_b is None and against is None and not (set_a or set_b):
        raise UsageError("name a second spec, or a git revision with --against")
    cache = open_store(store_path).root / ".fingerprints.json"
    with ExitStack() as stack:
        path = stack.enter_context(at_revision(spec_a, against)) if against else spec_a
        a = compile_spec(path, (*overrides, *set_a), cache)
    if against:
        a = replace(a, spec=replace(a.spec, path=f"{against}:{spec_a}"))
    b = compile_spec(spec_b or spec_a, (*overrides, *set_b), cache)
    found = diff.compare(a, b)
    click.echo(diff.to_json(found) if form == "json" else diff.to_text(found))
    sys.exit(0 if found.same else 1)
