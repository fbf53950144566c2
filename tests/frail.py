"""A stage kind for tests of the policy: it runs out of what it was not given enough of.

`installed` makes it known to processes that have the folder in their PYTHONPATH.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runtime.artifacts import Port
from runtime.fields import Reference, result, speed, takes
from runtime.job import Job
from runtime.stage import StageConfig, StageKind


class Frail(StageConfig):
    needs_mb: int = result(0, doc="raises MemoryError where Slurm has given it less")
    takes_mb: int = result(0, doc="uses so much, whatever it has")
    fits: int | None = result(None, doc="runs out of GPU memory with larger micro-batches")
    breaks: bool = result(False, doc="raises an error")
    batch_size: int = result(8, doc="examples")
    micro_batch: int | None = speed(None, doc="examples in one pass")
    source: Reference | None = takes("Prompts", default=None, doc="something to wait for")


def outputs(config: Frail, inputs: Mapping[str, Port]) -> dict[str, Port]:
    return {"": Port("Prompts", "data.jsonl")}


class OutOfMemoryError(RuntimeError):
    """As torch names it, which nobody wants to load here."""


def run(job: Job) -> None:
    config: Frail = job.config
    given = int(os.environ.get("SLURM_MEM_PER_NODE", "0"))
    if given < config.needs_mb:
        raise MemoryError(f"{config.needs_mb} MB needed, and {given} there")
    if config.fits is not None and (config.micro_batch or config.batch_size) > config.fits:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if config.breaks:
        raise KeyError("nobody knows")
    if given < config.takes_mb + 100:  # else it is not needed
        held = bytearray(config.takes_mb << 20)
        held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
        import time

        time.sleep(60)
    (job.out / "data.jsonl").write_text("{}\n")


STAGE = StageKind("frail", 1, Frail, outputs, run)


def installed(folder: Path) -> Path:
    """Put the entry point of this kind into a folder; returns the folder."""
    told = folder / "frail-1.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: frail\nVersion: 1\n")
    (told / "entry_points.txt").write_text("[alignc.stages]\nfrail = tests.frail:STAGE\n")
    return folder
