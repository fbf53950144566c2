"""Carries a command out on a login host: checks the spec here, copies what it reads, runs it there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from compiler.errors import UsageError
from compiler.frontend.source import parse
from compiler.garbage import size
from compiler.planning.promise import is_promise
from compiler.program import Program, compile_spec
from compiler.remote.login import HOST, Login, Mirror
from compiler.remote.parcel import Parcel, parcel
from compiler.remote.ssh import Host, Item, connected
from compiler.site.profile import find_profile, load_profile

LARGE = 1 << 30  # bytes; more is for the user to copy

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Site:
    """A login host, and the file of the profile that names it, where one does."""

    login: Login
    profile: str | None = None


@dataclass(frozen=True, slots=True)
class Errand:
    """A command as it was given here, without `--cluster`.

    `copies`: what it reads is copied first. `results`: it writes tables, which belong into this folder here;
    the usual one where that is empty.
    """

    command: str
    spec: str
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()  # after the spec
    overrides: tuple[str, ...] = ()
    copies: bool = True
    results: str | None = None


def site_of(cluster: str, spec: str) -> Site | None:
    """The login host that `--cluster` names: `me@host`, or a profile with `login`. Raises UsageError."""
    if "@" not in cluster:
        login = load_profile(cluster, Path(spec)).login
        return Site(login, os.path.abspath(find_profile(cluster, Path(spec)))) if login else None
    if not HOST.fullmatch(cluster):
        raise UsageError(f"{cluster!r} is no login host; one is named as `me@login.site.org`")
    return Site(Login.model_validate({"host": cluster}))


def carry_out(errand: Errand, site: Site, tell: Tell) -> int:
    """Carry a command out on a login host; returns its exit code there.

    Raises SpecError for a spec with errors, before the host is asked, and UsageError where the host cannot
    be reached or lacks what is needed.
    """
    program = _compile(errand) if errand.copies else None
    packed = parcel(program) if program else None
    _require_programs(site.login)
    mirror = Mirror.of(os.getcwd(), os.path.abspath(errand.spec))
    spec = mirror.seen(errand.spec)
    tables = f"results/{program.spec.experiment}" if program and errand.results is not None else ""
    options = [f"--out={tables}"] if tables else []
    if packed and site.profile:
        options.append(f"--cluster={mirror.seen(site.profile)}")
    with connected(site.login, mirror) as host:
        host.greet()
        if packed:
            _copy(host, packed, site.profile, tell)
        code = host.run(spec, [errand.command, *options, *errand.options, "--", spec, *errand.arguments])
        if tables and code == 0:
            host.fetch(tables, errand.results or tables)
            tell(f"fetched {errand.results or tables} from {site.login.host}")
    return code


def _compile(errand: Errand) -> Program:
    if is_promise(Path(errand.spec)):
        raise UsageError(f"{errand.spec} is a plan: name its spec here")
    return compile_spec(errand.spec, errand.overrides, elsewhere=True)


def _require_programs(login: Login) -> None:
    for name in ("ssh", "rsync"):
        if shutil.which(name) is None:
            raise UsageError(f"`{name}` is not on this machine; {login.host} is reached by it")


# ---------------------------------------------------------------- copying


def _copy(host: Host, packed: Parcel, profile: str | None, tell: Tell) -> None:
    """Copy what a spec needs, the texts last, and say what was new there. Raises UsageError."""
    data = [_source(host.mirror, path) for path in packed.data]
    if data and (wanted := _wanted(host, data)):
        tell(f"copying {_some(wanted)} to {host.login.host}")
        host.push(data)
    with TemporaryDirectory(prefix="alignc-") as folder:
        texts = [_source(host.mirror, path) for path in packed.texts]
        if profile:
            texts += _profile(host.mirror, profile, folder)
        copied = [item for item in host.push(texts, "--checksum") if item.is_new]
    if copied:
        tell(f"copied {_some(copied)} to {host.login.host}:{host.login.folder}")


def _source(mirror: Mirror, path: str, base: str | None = None) -> str:
    """A file or folder as rsync takes it: `BASE/./PLACE`."""
    return f"{(mirror.bases[0] if base is None else base).rstrip('/')}/./{mirror.place(path)}"


def _profile(mirror: Mirror, path: str, folder: str) -> list[str]:
    """A cluster profile without its `login`, written below a folder, and the prices that it names."""
    tree, _ = parse(Path(path).read_text(encoding="utf-8"), path)
    assert tree is not None  # it was read before
    told = {key: value for key, value in tree.plain().items() if key != "login"}
    copy = Path(folder, mirror.place(path))
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    prices = told.get("prices")
    named = [prices] if isinstance(prices, str) and not prices.startswith(("/", "~")) else []
    beside = [os.path.normpath(os.path.join(os.path.dirname(path), name)) for name in named]
    return [_source(mirror, path, folder), *(_source(mirror, name) for name in beside)]


def _wanted(host: Host, data: Sequence[str]) -> list[Item]:
    """The files of data that are not yet the same there. Raises UsageError for what is not copied unasked."""
    items = host.push(data, "--dry-run", "--delete")
    if strange := [item for item in items if item.what.startswith("*")]:
        raise UsageError(
            f"a folder of data has more on {host.login.host} than here, and nothing is deleted there: remove "
            f"{_some(strange)} below {host.login.folder}"
        )
    wanted = [item for item in items if item.is_new]
    if sum(item.size for item in wanted) > LARGE:
        by = ["-e", shlex.join(["ssh", *host.login.options])] if host.login.options else []
        there = f"{host.login.host}:{host.login.folder.removeprefix('~/')}/"
        line = shlex.join(["rsync", "-rLtR", "--progress", *by, *data, there])
        raise UsageError(
            f"{_some(wanted)} are more than is copied unasked: name what is on {host.login.host} by its "
            f"absolute path there, or copy it yourself, and go on:\n  {line}"
        )
    return wanted


def _some(items: Sequence[Item]) -> str:
    """Files in words: the first ones and how many more, and their size."""
    names = ", ".join(item.place for item in items[:2])
    more = f" and {len(items) - 2} more" if len(items) > 2 else ""
    return f"{names}{more} ({size(sum(item.size for item in items))})"
