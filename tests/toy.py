"""A stage kind for tests of the job runner: it leaves a mark, then works, fails or hangs.

python -m tests.toy STORE DESCRIPTION.json     as `python -m runtime.run_job`, with this kind known
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import runtime.stage
from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job, JobError
from runtime.stage import StageConfig, StageKind


class Toy(StageConfig):
    does: Literal["work", "fail", "refuse", "exit", "hang"] = result("work", doc="how it ends")
    seconds: float = result(0.0, doc="how long it takes before")
    marks: str = result(doc="a file that gets a line for each try")
    source: Reference | None = takes("Prompts", default=None, doc="something to wait for")


def outputs(config: Toy, inputs: Mapping[str, Port]) -> dict[str, Port]:
    return {"": Port("Prompts", "data.jsonl")}


def run(job: Job) -> None:
    config: Toy = job.config
    with Path(config.marks).open("a") as marks:
        marks.write(f"{os.getpid()}\n")
    (job.scratch / "seen").touch()
    time.sleep(600 if config.does == "hang" else config.seconds)
    if config.does == "fail":
        raise RuntimeError("the toy broke")
    if config.does == "refuse":
        raise JobError("the toy will not; give it another")
    if config.does == "exit":
        sys.exit(0)
    (job.out / "data.jsonl").write_text("{}\n")
    job.report(tries=len(Path(config.marks).read_text().splitlines()))


STAGE = StageKind("toy", 1, Toy, outputs, run)


def known() -> Mapping[str, StageKind]:
    """In place of the kinds that other packages bring."""
    return {"toy": STAGE}


if __name__ == "__main__":
    from runtime import claims
    from runtime.run_job import main

    claims.BEAT_S = 0.1
    runtime.stage._foreign_kinds = known  # type: ignore[assignment]
    main()
