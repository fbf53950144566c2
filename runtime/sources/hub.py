"""Where the file of a source lies: on this machine, or fetched from a data set on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.job import JobError


def local_file(declared: Any) -> Path:
    """The file that a source declares; one on the hub is fetched into the cache first. Raises JobError."""
    if declared.path is not None:
        return Path(declared.path)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise JobError("this source is on the Hugging Face hub: install `alignc[train]`") from error
    where = f"{declared.file} of the data set {declared.hub}"
    try:
        found = hf_hub_download(declared.hub, declared.file, repo_type="dataset", revision=declared.revision)
    except Exception as error:  # offline, gated, misspelt: the hub's own words tell which
        raise JobError(f"{where} cannot be had from the hub: {error}") from error
    return Path(found)
