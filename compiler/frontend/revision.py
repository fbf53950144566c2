"""A spec as it stood at a git revision, with all files beside it, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from compiler.errors import Span, SpecError, UsageError


@contextmanager
def at_revision(spec: str, revision: str) -> Iterator[str]:
    """The path of a spec in a copy of its repository at a revision; the copy is removed at the end.

    What git does not keep (data, models) is linked to, so it counts as it is now. Places in a SpecError
    raised meanwhile are told as `REVISION:path`. Raises UsageError where git cannot give the file.
    """
    folder = Path(spec).resolve().parent
    root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    inside = Path(spec).resolve().relative_to(root.resolve())
    commit = _git(folder, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()
    if not _git(root, "ls-tree", "--name-only", commit, "--", inside.as_posix()):
        raise UsageError(f"{inside} does not stand in the repository at {revision}")
    with TemporaryDirectory(prefix="alignc-") as made:
        copy = Path(made).resolve() / "tree"
        _check_out(root, commit, copy, Path(made) / "index")
        _link_others(root, copy)
        try:
            yield str(copy / inside)
        except SpecError as error:
            raise _retold(error, f"{copy}/", f"{revision}:") from None


def _git(folder: Path, *words: str, **environment: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )
    except FileNotFoundError:
        raise UsageError("git is not installed, so there are no revisions") from None
    if done.returncode:
        told = done.stderr.strip().splitlines() or ["no reason given"]
        raise UsageError(f"git {words[0]}: {told[-1].removeprefix('fatal: ')}")
    return done.stdout


def _check_out(root: Path, commit: str, copy: Path, index: Path) -> None:
    """All files of a commit below `copy`, by an index of our own: the user's stays as it is."""
    copy.mkdir()
    _git(root, "read-tree", commit, GIT_INDEX_FILE=str(index))
    _git(root, "checkout-index", "--all", f"--prefix={copy}/", GIT_INDEX_FILE=str(index))


def _link_others(root: Path, copy: Path) -> None:
    for name in _git(root, "ls-files", "--others", "--directory", "-z").split("\0"):
        link = copy / name.rstrip("/")
        if name and not link.exists() and link.parent.is_dir():
            link.symlink_to(root / name.rstrip("/"))


def _retold(error: SpecError, old: str, new: str) -> SpecError:
    """The same findings with other names of files."""

    def place(span: Span) -> Span:
        return replace(span, file=span.file.replace(old, new))

    found = [
        replace(
            d,
            message=d.message.replace(old, new),
            span=place(d.span),
            notes=tuple((word, place(span)) for word, span in d.notes),
        )
        for d in error.diagnostics
    ]
    texts: Mapping[str, str] = {file.replace(old, new): text for file, text in error.texts.items()}
    return SpecError(found, texts)
