"""Keys of services: from an environment variable, or from the file that another one names.

`NAME` holds a key, or `NAME_FILE` the path of a file with nothing else in it, which its owner alone may
read. A key is handed to its SDK and goes nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SUFFIX = "_FILE"
LONGEST = 16_384  # bytes; a file of more is something else


class BadKey(Exception):
    """A key that cannot be used; says what to do, and never what the key is."""


def find_key(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The key that an environment variable, or its file, holds; empty where neither is set.

    Raises BadKey for a file that cannot be read or that others can read, and for what no key looks like.
    """
    where, key = name, environment.get(name, "").strip()
    file = environment.get(name + SUFFIX, "").strip()
    if not key and file:
        where, key = file, _read(Path(file).expanduser())
    if not key.isascii() or not key.isprintable():
        raise BadKey(f"the key in {where} holds characters that no key has; set it again")
    return key


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(LONGEST + 1)
    except OSError as error:
        raise BadKey(f"the file of a key, {path}, cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise BadKey(
            f"others than you may open {path}, which holds a key (mode {mode & 0o777:04o})\n"
            f"Take it from them: chmod 600 {path}"
        )
    if not raw.strip() or len(raw) > LONGEST:
        raise BadKey(f"the file {path} holds no key: put the key into it, and nothing else")
    return raw.decode("utf-8", "replace").strip()
