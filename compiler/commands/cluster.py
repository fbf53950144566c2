"""`alignc cluster`: cluster profiles."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("cluster")
def command() -> None:
    """Cluster profiles: what sbatch needs to know of a site."""


@command.command("detect")
@click.option("--out", type=click.Path(dir_okay=False), help="Write this file, which must not be there yet.")
def detect(out: str | None) -> None:
    """Draft a cluster profile from what Slurm tells; says where you have to choose.

    \b
    alignc cluster detect
    alignc cluster detect --out ~/.config/alignc/clusters/mysite.yaml
    alignc doctor --cluster mysite
    """
    from compiler.errors import UsageError
    from compiler.site.detect import draft
    from compiler.site.facts import read_site

    site = read_site()
    if site is None:
        raise UsageError("Slurm does not answer (`scontrol show partition`): do this on a login node")
    text = draft(site)
    if out is None:
        click.echo(text, nl=False)
        return
    path = Path(out).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already: name another file") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    choices = sum("CHOOSE" in line for line in text.splitlines()) - 1
    click.echo(f"wrote {path}; {choices} lines with CHOOSE want a look")
    click.echo(f"`alignc doctor --cluster {path}` tries it")
