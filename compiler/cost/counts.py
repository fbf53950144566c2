"""Rows and characters of data at hand: files of sources, sealed artifacts, the small world.

A count is remembered by path, size and time of change of its file, so that a large file is read
once. Of a very large one only the beginning is read, and the rest inferred from it.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from runtime.files import canonical, digest_text, write_atomic

PARQUET = ".parquet"  # the library that reads it takes too long to load
LARGE = 1 << 20  # bytes; smaller files are counted faster than remembered
WHOLE = 128 << 20  # bytes; of larger files only the beginning is read
BEGINNING = 8 << 20
WORLD_ROWS = 500  # rows of a world that are made to see how long they are
SAMPLE_ROWS = 200  # rows on which characters per token are measured


@dataclass(frozen=True, slots=True)
class Count:
    """Rows, and mean characters of a row's prompt and of one completion (None where it has none).

    `whole` is false where only the beginning of the data was read.
    """

    rows: int
    prompt: float
    completion: float | None
    whole: bool
    basis: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Remembers what was found out about large files, below a store that exists."""

    folder: Path | None

    def recall(self, *facts: Any) -> Any:
        try:
            return json.loads(self._entry(facts).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep(self, value: Any, *facts: Any) -> None:
        if self.folder is not None and self.folder.parent.is_dir():
            try:
                write_atomic(self._entry(facts), json.dumps(value), durable=False)
            except OSError:
                return  # a full or read-only disk: it will be counted again

    def _entry(self, facts: tuple[Any, ...]) -> Path:
        return (self.folder or Path(os.devnull)) / digest_text(canonical(list(facts)))[:32]


def file_facts(path: Path) -> list[Any]:
    """What tells this state of a file from any other. Raises OSError."""
    seen = path.stat()
    return [os.path.realpath(path), seen.st_size, seen.st_mtime_ns]


# ---------------------------------------------------------------- sources


def count_source(declared: Any, longest: int | None, only_full: bool, memory: Memory) -> Count | None:
    """What `prepare` will find in a source, duplicates and filtered rows left out; None where unknown.

    longest, only_full: the filters `max_prompt_chars` and `only_full` of `prepare`.
    """
    if declared.kind == "world":
        return _of_world(declared)
    path = Path(getattr(declared, "path", None) or "")
    if declared.kind == "datasets" or not path.is_file() or path.suffix == PARQUET:
        return None
    filters = {"max_prompt_chars": longest, "only_full": only_full}
    facts = [declared.model_dump(mode="json"), filters]
    return _remembered(path, facts, memory, lambda file: _count(_prepared(declared, file, filters)))


def _prepared(declared: Any, file: Path, filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    from runtime.sources import read, unique
    from runtime.stages.prepare import Prepare, kept

    config = Prepare.model_validate({"kind": "prepare", "source": "here", **filters})
    dropped = Counter[str]()
    rows = read(declared.model_copy(update={"path": str(file)}), dropped)
    return unique(kept(config, rows, dropped), dropped)


def _of_world(declared: Any) -> Count:
    from runtime.sources import read

    made = _count(islice(read(declared, Counter()), WORLD_ROWS))
    return Count(declared.size, made[1], made[2], True, "the size of the world")


# ---------------------------------------------------------------- files


def count_rows(path: Path, memory: Memory) -> Count | None:
    """Rows of an artifact's JSON-lines file; None where it cannot be read."""
    from runtime.files import read_rows

    return _remembered(path, [], memory, lambda file: _count(read_rows(file)))


def _remembered(path: Path, facts: list[Any], memory: Memory, count: Any) -> Count | None:
    from runtime.job import JobError

    try:
        identity = file_facts(path)
        known = memory.recall(identity, facts) if identity[1] >= LARGE else None
        if known is not None:
            return Count(**known)
        found = _whole(path, count) if identity[1] <= WHOLE else _from_beginning(path, identity[1], count)
    except (OSError, ValueError, TypeError, EOFError, JobError):
        return None  # the job will say what is wrong with it
    if identity[1] >= LARGE:
        memory.keep(asdict(found), identity, facts)
    return found


def _whole(path: Path, count: Any) -> Count:
    rows, prompt, completion = count(path)
    return Count(rows, prompt, completion, True, f"counted in {path.name}")


def _from_beginning(path: Path, size: int, count: Any) -> Count:
    """Counts the records at the start of a file, and takes the rest to be like them."""
    with path.open("rb") as raw:
        if path.suffix == ".gz":
            with gzip.open(raw) as unpacked:
                data, read = unpacked.read(BEGINNING), raw.tell()
        else:
            data, read = raw.read(BEGINNING), BEGINNING
    records, used = _records(data.decode("utf-8-sig", "ignore"))
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.jsonl"
        start.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        rows, prompt, completion = count(start)
    share = read * used / size
    basis = f"counted in the first {read >> 20} MiB of {path.name}"
    return Count(round(rows / share), prompt, completion, False, basis)


def _records(text: str) -> tuple[list[Any], float]:
    """Whole JSON values at the start of JSON lines or an array, and the share of the text they take."""
    decoder, records, place = json.JSONDecoder(), list[Any](), 0
    while True:
        while place < len(text) and text[place] in "[,] \t\r\n":
            place += 1
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError:
            return records, max(place, 1) / max(len(text), 1)
        records.append(value)


def _count(rows: Iterable[Mapping[str, Any]]) -> tuple[int, float, float | None]:
    number = prompt = completion = 0
    full = False
    for row in rows:
        number += 1
        prompt += len(row.get("prompt") or "")
        written = _written(row)
        full = full or written is not None
        completion += written or 0
    return number, prompt / max(number, 1), completion / max(number, 1) if full else None


def _written(row: Mapping[str, Any]) -> int | None:
    """Characters of one completion of a row; of the true answer, where it has nothing else."""
    if "chosen" in row and "rejected" in row:
        return (len(row["chosen"]) + len(row["rejected"])) // 2
    for name in ("completion", "answer"):
        if row.get(name) is not None:
            return len(str(row[name]))
    return None


def sample_texts(declared: Any) -> list[str]:
    """The first texts of a source's file, to measure tokens on; none where it has no file."""
    path = Path(getattr(declared, "path", None) or "")
    unread = declared.kind in ("world", "datasets") or path.suffix == PARQUET
    if unread or not path.is_file() or path.stat().st_size > WHOLE:
        return []
    from runtime.job import JobError
    from runtime.sources import read

    try:
        rows = islice(read(declared, Counter()), SAMPLE_ROWS)
        return [f"{row['prompt']}{row.get('completion', '')}" for row in rows]
    except (OSError, ValueError, JobError):
        return []
