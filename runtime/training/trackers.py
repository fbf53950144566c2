"""Sends the rows of a training's log to TensorBoard and Weights & Biases, where the spec asks for it.

The log is the truth: a try first sends the rows that the log has already, so that each step is there
once, however often the run was stopped. Trouble with tracking never stops a training.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.files import read_rows
from runtime.job import Job
from runtime.tracking import Tracking, Wandb

# Seconds that a training waits for Weights & Biases; at its end less than Slurm leaves to a job it stops.
START_S, FINISH_S = 60.0, 20.0

Row = Mapping[str, Any]


class TensorBoard:
    """One folder of event files for each run, made anew at each try."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))

    def tell(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()


class WandbRun:
    """One run under the job's key. Steps that the server has are not sent again."""

    def __init__(self, told: Wandb, job: Job, root: Path) -> None:
        import wandb

        if told.mode == "online" and not wandb.login(prompt=False):  # else it may wait for one to be typed
            raise RuntimeError("no key of the API was found: set WANDB_API_KEY, or run `wandb login`")
        for earlier in (root / "wandb").glob(f"offline-run-*-{job.key}"):
            shutil.rmtree(earlier, ignore_errors=True)
        root.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True,
            init_timeout=START_S, finish_timeout=FINISH_S,
        )  # fmt: skip
        self.run = wandb.init(
            project=told.project, entity=told.entity, mode=told.mode, id=job.key, resume="allow",
            name=job.id, group=job.description.get("experiment"), job_type=job.kind.name,
            config=job.config.model_dump(mode="json"), dir=str(root), settings=settings,
        )  # fmt: skip
        self.first = self.run.step

    def tell(self, row: Row) -> None:
        if row["step"] >= self.first:
            self.run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def close(self) -> None:
        self.run.finish()


class Trackers:
    """All that the spec asks for. One that fails is told in a warning and left out from then on."""

    def __init__(self, makers: Mapping[str, Callable[[], TensorBoard | WandbRun]]) -> None:
        self.open: dict[str, TensorBoard | WandbRun] = {}
        for name, make in makers.items():
            with self._guarded(name):
                self.open[name] = make()

    def tell(self, row: Row) -> None:
        for name, tracker in list(self.open.items()):
            with self._guarded(name):
                tracker.tell(row)

    def close(self) -> None:
        for name, tracker in list(self.open.items()):
            with self._guarded(name):
                tracker.close()

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.open.pop(name, None)
            way_out = "; pip install 'alignc[tracking]'" if isinstance(error, ImportError) else ""
            warnings.warn(
                f"{name} does not show this training ({type(error).__name__}: {error}){way_out}", stacklevel=2
            )


@contextmanager
def tracking(job: Job, rank: int, log: Path) -> Iterator[Trackers]:
    """What the job's description asks for, on rank 0, told of the rows that the log has already."""
    asked = Tracking.model_validate(job.description.get("tracking") or {})
    trackers = Trackers(_makers(asked, job) if rank == 0 else {})
    try:
        if trackers.open and log.exists():
            for row in read_rows(log):
                trackers.tell(row)
        yield trackers
    finally:
        trackers.close()


def _makers(asked: Tracking, job: Job) -> dict[str, Callable[[], TensorBoard | WandbRun]]:
    root = job.root / ".tracking"
    makers: dict[str, Callable[[], TensorBoard | WandbRun]] = {}
    board, wandb = asked.tensorboard, asked.wandb
    if board is not None:
        name = f"{job.id.replace('/', '_')[:150]}-{job.key[:12]}"
        folder = root / Path(board).expanduser() / job.description.get("experiment", "") / name
        makers["TensorBoard"] = lambda: TensorBoard(folder)
    if wandb is not None:
        makers["Weights & Biases"] = lambda: WandbRun(wandb, job, root)
    return makers
