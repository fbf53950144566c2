"""`alignc schema`: the JSON schema from which editors complete, explain and check specs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("schema", short_help="Write the JSON schema of specs, for editors.")
@click.option("--out", type=click.Path(dir_okay=False), help="File to write; standard output by default.")
@click.option("--profile", is_flag=True, help="The schema of cluster profiles instead.")
def command(out: str | None, profile: bool) -> None:
    """Write the JSON schema of specs (draft-07), for editors; it knows every installed stage kind.

    \b
    alignc schema --out .alignc/spec.schema.json
    alignc schema --profile --out clusters/profile.schema.json
    """
    from compiler.manual.schema import profile_schema, spec_schema, to_text
    from compiler.manual.starter import MODELINE
    from runtime.stage import installed_kinds

    text = to_text(profile_schema() if profile else spec_schema(installed_kinds()))
    if out is None:
        click.echo(text, nl=False)
        return
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    click.echo(f"wrote {path}")
    where, name = ("a profile beside it", path.name) if profile else ("a spec here", str(path))
    click.echo(f"the first line of {where}: {MODELINE}{name}")
