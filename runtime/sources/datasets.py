"""A data set that Hugging Face `datasets` can load: a hub id, a file, a folder, or one saved to disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.declare import DatasetsSource, PreferencesSource
from runtime.job import JobError
from runtime.sources import Row
from runtime.sources.pick import pick

# Endings of single files -> the builder that reads them.
BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


def rows(declared: DatasetsSource, dropped: Counter[str]) -> Iterator[Row]:
    for where, record in records(declared):
        yield pick(record, declared, where)


def records(declared: DatasetsSource | PreferencesSource) -> Iterator[tuple[str, Any]]:
    """(place, record) of each row of the declared split."""
    for number, record in enumerate(_load(declared), 1):
        yield f"{declared.path or declared.hub}[{declared.split}] row {number}", record


def _load(declared: DatasetsSource | PreferencesSource) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise JobError("this source needs Hugging Face `datasets`: install `alignc[train]`") from error

    name = str(declared.path or declared.hub)
    try:
        if declared.path is None:
            return datasets.load_dataset(
                name, declared.subset, split=declared.split, revision=declared.revision
            )
        local = Path(declared.path)
        if _saved_to_disk(local):
            return _split(datasets.load_from_disk(name), declared)
        if local.suffix in BUILDERS and local.is_file():
            return datasets.load_dataset(
                BUILDERS[local.suffix], declared.subset, data_files=name, split=declared.split
            )
        return datasets.load_dataset(name, declared.subset, split=declared.split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise JobError(
            f"the data set {name!r} cannot be loaded: {error}; "
            "check path or hub id, subset, split and revision, and that this machine reaches the hub"
        ) from error


def _saved_to_disk(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _split(loaded: Any, declared: DatasetsSource | PreferencesSource) -> Any:
    """The declared split, where several were saved; one that was saved alone is that one."""
    if not isinstance(loaded, dict):
        return loaded
    if declared.split not in loaded:
        raise ValueError(f"it has the splits {', '.join(loaded)}, not {declared.split!r}")
    return loaded[declared.split]
