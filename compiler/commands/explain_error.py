"""`alignc explain-error`: tell what a code means."""

from __future__ import annotations

import click


@click.command("explain-error", short_help="Explain the code of an error or a warning.")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Tell what the code of an error or a warning means, with an example; without CODE, list all codes.

    \b
    alignc explain-error AC103
    alignc explain-error
    """
    from compiler.errors import CODES, UsageError, near
    from compiler.manual.explanations import explanations

    if code is None:
        click.echo("\n".join(f"{known}  {title}" for known, title in CODES.items()))
    elif (found := explanations().get(code.upper())) is None:
        raise UsageError(f"there is no code {code!r}; {near(code.upper(), CODES)}")
    else:
        click.echo(found.for_terminal())
