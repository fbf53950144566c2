"""`alignc doctor`: does this site do what jobs need?"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.commands.common import (
    cluster_option,
    compile_,
    go_to_login,
    open_store,
    profile_of,
    set_option,
    store_option,
)
from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.program import Program
    from compiler.site.doctor import Check
    from compiler.site.profile import Profile
    from runtime.store import Store

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
COMMANDS = ("sbatch", "squeue", "scontrol", "sinfo", "scancel")


@click.command("doctor", short_help="Check a site: Slurm, partitions, store, nodes, keys; say what to fix.")
@click.argument("spec", required=False, type=click.Path(dir_okay=False))
@cluster_option
@click.option(
    "--wait",
    type=click.FloatRange(min=1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the small job that each partition gets.",
)
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True)
@store_option
@set_option
def command(
    spec: str | None, cluster: str | None, wait: float, form: str, store_path: str, overrides: tuple[str, ...]
) -> None:
    """Check a site and say what to fix; exits with 1 where there is a problem.

    Looks at Slurm, at the profile's partitions and at the store, and submits one small job to each
    partition. With SPEC also at what that needs: partitions its jobs fit into, packages, prices, keys
    (whether they are set; never what they are). Without Slurm it checks what `alignc run` needs.

    \b
    alignc doctor
    alignc doctor --cluster mysite --store /shared/me/store
    alignc doctor specs/quickstart.yaml --cluster mysite
    """
    if spec is not None:
        go_to_login(spec, cluster)
    store = open_store(store_path)
    program = compile_(spec, overrides, store) if spec else None
    if program is not None:
        profile = profile_of(program, cluster)
    else:
        from compiler.site.profile import load_profile

        profile = load_profile(cluster, Path("spec.yaml"))
        if profile.login is not None:
            raise UsageError(
                f"{profile.login.host} is looked at from a SPEC, which is copied there: name one"
            )
    found = _checks(program, profile, store, wait, on_slurm=cluster is not None)
    checks = list(_told(found)) if form == "text" else list(found)
    counts = {word: sum(c.outcome == word for c in checks) for word in COLOURS}
    if form == "json":
        _document(checks, counts)
    else:
        told = [f"{n} {word}{'s' * (n != 1 and word != 'ok')}" for word, n in counts.items()]
        click.echo(f"\n{', '.join(told)}")
    if counts["problem"]:
        sys.exit(1)


def _checks(
    program: Program | None, profile: Profile, store: Store, wait: float, *, on_slurm: bool
) -> Iterator[Check]:
    """Every check in turn; each is told as soon as it is made."""
    import shutil
    import subprocess

    from compiler.cost.prices import read_tables
    from compiler.site import doctor
    from compiler.site.doctor_disk import check_disk, trial_folder
    from compiler.site.doctor_jobs import check_nodes, probe_here
    from compiler.site.facts import read_site

    needs = doctor.needs_of(program)
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    local = len(missing) == len(COMMANDS) and not on_slurm
    site = None if local else read_site()
    if local:
        yield doctor.Check("Slurm", "ok", "not on this machine: checks are for `alignc run`")
    else:
        yield from doctor.check_slurm(missing, site)
    if site is not None:
        yield from doctor.check_profile(profile, site)
    if program is not None:
        there = None if local else site
        yield from doctor.check_spec(program, profile, there, read_tables(profile.prices), local=local)
    try:
        with trial_folder(store.root) as folder:
            yield from check_disk(store.root, folder)
            if site is None:
                try:
                    told = probe_here(folder, needs)
                except (ValueError, subprocess.SubprocessError) as error:
                    yield doctor.Check("this machine", "problem", f"Python does not get through: {error}")
                    return
                yield from doctor.check_machine("this machine", told, needs, profile, on_slurm=False)
            elif "sbatch" not in missing:
                yield from check_nodes(folder, profile, site, needs, wait)
    except OSError as error:
        where = error.filename or store.root
        text = f"{where}: {error.strerror}"
        yield doctor.Check("store", "problem", text, "name a folder that can be written: `--store`")


def _told(checks: Iterable[Check]) -> Iterator[Check]:
    """Print each check, under the name of its group."""
    group = ""
    for check in checks:
        if check.group != group:
            click.echo(("\n" if group else "") + check.group)
            group = check.group
        click.echo(f"  {click.style(f'{check.outcome:<8}', fg=COLOURS[check.outcome])} {check.text}")
        if check.fix and check.outcome != "ok":
            click.echo(f"           {check.fix}")
        yield check


def _document(checks: list[Check], counts: dict[str, int]) -> None:
    import json
    from dataclasses import asdict

    from compiler.site.doctor import SCHEMA

    told: dict[str, Any] = {"schema": SCHEMA, "counts": counts, "checks": [asdict(c) for c in checks]}
    click.echo(json.dumps(told, indent=2, ensure_ascii=False))
