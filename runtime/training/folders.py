"""Folders that appear whole or not at all, however the process that makes them ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.files import sync


def draft_of(path: Path) -> Path:
    """Where a folder is made before it gets its name."""
    return path.with_name(f".{path.name}.draft")


def open_draft(path: Path) -> Path:
    """An empty folder to fill; what an earlier, broken try left there is removed."""
    draft = draft_of(path)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def publish(path: Path) -> None:
    """Sync the draft of a folder and give it its name; an older folder of that name goes."""
    draft = draft_of(path)
    for found in sorted(draft.rglob("*")):
        if found.is_dir():
            sync(found)
        else:
            sync(found)
    sync(draft)
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)
    sync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `path` when the block ends without an exception."""
    yield open_draft(path)
    publish(path)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
    return target


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a copy of a folder that costs no space where the file system can share files.

    The files must not be changed in place afterwards: both folders would see it.
    """
    shutil.copytree(source, target, copy_function=_link)
