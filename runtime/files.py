"""Durable file operations: what these wrote survives a crash, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

# Made once, and without its look for circles, since plans write it ten thousands of times.
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces; refuses what JSON cannot hold (NaN too)."""
    return _CANONICAL.encode(value)


def digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file's content at once; a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        sync(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", durable=durable)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def open_text(path: Path) -> TextIO:
    """Open a text file for reading, unpacked where its name ends in `.gz`; a byte-order mark is skipped."""
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


def numbered_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSON-lines file (also .gz) and their lines.

    Raises ValueError with file and line for a broken one, OSError where the file cannot be read.
    """
    number = 0
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, json_object(line)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}:{number + 1}: damaged or cut off gzip data: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{number + 1} or soon after: not UTF-8: {error.reason}") from error
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error


def json_object(line: str | bytes) -> dict[str, Any]:
    """The object that a line of JSON is. Raises ValueError for anything else."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is needed, not {type(row).__name__}")
    return row


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file (also .gz). Raises as `numbered_rows` does."""
    return (row for _, row in numbered_rows(path))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON lines; returns how many."""
    with path.open("w", encoding="utf-8") as file:
        return append_rows(file, rows)


def append_rows(file: TextIO, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows to an open file as JSON lines; returns how many."""
    count = 0
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
    return count
