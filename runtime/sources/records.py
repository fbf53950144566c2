"""Records of JSON and JSON-lines files, each with the place it was read from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.files import numbered_rows, open_text
from runtime.job import JobError

Record = dict[str, Any]


def lines(path: Path) -> Iterator[tuple[str, Record]]:
    """(`file:line`, record) of a JSON-lines file, which may be gzipped."""
    try:
        for number, record in numbered_rows(path):
            yield f"{path}:{number}", record
    except OSError as error:
        raise JobError(_unreadable(path, error)) from error
    except ValueError as error:
        raise JobError(f"{error}; mend or remove that line (one JSON object a line is needed)") from error


def array_or_lines(path: Path) -> Iterator[tuple[str, Record]]:
    """Records of a file that holds one JSON array, or JSON lines; either may be gzipped.

    An array is read as a whole: count on several times its size in memory.
    """
    if _starts_with_bracket(path):
        yield from _array(path)
    else:
        yield from lines(path)


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read: {error.strerror or error}; check `path` of the source"


def _starts_with_bracket(path: Path) -> bool:
    try:
        with open_text(path) as file:
            start = file.read(1024).lstrip()
            return start.startswith("[")
    except (OSError, ValueError, EOFError):
        return False  # reading it as lines tells what is wrong, and where


def _array(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        with open_text(path) as file:
            records = json.load(file)
    except OSError as error:
        raise JobError(_unreadable(path, error)) from error
    except json.JSONDecodeError as error:
        raise JobError(f"{path}:{error.lineno}: not JSON: {error.msg}; mend the file there") from error
    except RecursionError as error:
        raise JobError(f"{path}: nested too deeply; mend the file") from error
    except (EOFError, ValueError) as error:
        raise JobError(f"{path}: damaged: {error}; fetch the file again") from error
    for number, record in enumerate(records, 1):
        where = f"{path}: entry {number}"
        if not isinstance(record, dict):
            raise JobError(f"{where}: a JSON object is needed, not {type(record).__name__}; mend that entry")
        yield where, record
