"""The embedded backend: runs a plan's jobs on this machine, as many at once as it has room for.

Each job is a process of its own, forked from a server that has imported the slow libraries once.
Nothing is remembered between runs: what is sealed is done, the rest is run.
"""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from compiler.output.describe import description_path, write_descriptions
from compiler.planning.plan import MADE, Plan, Step, processes
from runtime.files import read_json
from runtime.run_job import Outcome
from runtime.run_task import run_child
from runtime.store import Store

GRACE_S = 30.0
_GPU_ID = re.compile(r"\d+|(GPU|MIG)-\S+")


@contextmanager
def _interrupts_put_off() -> Iterator[None]:
    """Let Ctrl-C wait: it would cut a request to the fork server in two, which shows as a traceback there."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Capacity:
    """What this machine offers to jobs at once."""

    cpus: int
    gpus: tuple[str, ...]


def _gpus() -> tuple[str, ...]:
    """Ids of the GPUs that jobs may have, as CUDA reads them: an allocation's, or all there are."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        ids = (v.strip() for v in visible.split(","))
        # CUDA takes what stands before the first id that is none, such as -1 or NoDevFiles.
        return tuple(dict.fromkeys(itertools.takewhile(_GPU_ID.fullmatch, ids)))
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return _listed(listed.stdout) if listed.returncode == 0 else ()


def _listed(text: str) -> tuple[str, ...]:
    """Ids in what `nvidia-smi --list-gpus` prints; a GPU that is cut into MIG instances stands for those."""
    found: list[str] = []
    for gpu in re.split(r"^(?=GPU \d)", text, flags=re.MULTILINE):
        if number := re.match(r"GPU (\d+):", gpu):
            found += re.findall(r"UUID: (MIG-[^)\s]+)", gpu) or [number[1]]
    return tuple(found)


def machine() -> Capacity:
    return Capacity(len(os.sched_getaffinity(0)), _gpus())


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job says it is."""

    done: int
    total: int
    text: str


Tick = Callable[[Mapping[str, Progress]], None]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a node; `message` says why a failed one failed."""

    node: str
    # started, sealed, reused, failed, refused, blocked, interrupted; skipped: reads one that was not made
    what: str
    seconds: float = 0.0
    message: str = ""


@dataclass(slots=True)
class _Running:
    step: Step
    index: int
    process: BaseProcess
    gpus: tuple[str, ...]
    started: float


@dataclass(slots=True)
class LocalRun:
    """Runs the nodes that a plan says to run or to wait for; `run` yields events as they happen."""

    plan: Plan
    store: Store
    capacity: Capacity
    results: dict[str, str] = field(default_factory=dict[str, str])  # node id -> how it ended
    _before: frozenset[str] = frozenset()
    _running: dict[int, _Running] = field(default_factory=dict[int, _Running])

    def run(self, tick: Tick = lambda _: None) -> Generator[Event, None, None]:
        """Run everything; `tick` is called several times a second with the progress of running nodes."""
        steps = self.plan.steps
        first = {step.key: index for index, step in reversed(list(enumerate(steps)))}
        left = {i for key, i in first.items() if steps[i].action in (*MADE, "wait")}
        keys = {steps[i].key for i in left}
        write_descriptions(self.store, self.plan.program, keys, estimated=self.plan.estimated)
        self._before = self.store.sealed()
        height = self._heights()
        context = self._context(left)
        try:
            while left or self._running:
                yield from self._start_ready(context, left, first, height)
                if not self._running:
                    break
                wait([r.process.sentinel for r in self._running.values()], timeout=0.25)
                tick({r.step.node.id: self._progress(r) for r in self._running.values()})
                for index in [i for i, r in self._running.items() if not r.process.is_alive()]:
                    yield self._finish(index)
                yield from self._block(left, first)
        finally:
            self._stop()

    def _context(self, left: set[int]) -> Any:
        modules = {m for i in left for m in self.plan.steps[i].node.kind.preload}
        present = sorted(m for m in modules if importlib.util.find_spec(m) is not None)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "runtime.run_task", *present])
        return context

    def _heights(self) -> list[int]:
        """For each node the length of the longest chain that waits for it: the longest goes first."""
        steps = self.plan.steps
        heights = [0] * len(steps)
        for index in range(len(steps) - 1, -1, -1):
            for need in steps[index].needs:
                heights[need] = max(heights[need], heights[index] + 1)
        return heights

    def _ready(self, index: int, first: Mapping[str, int]) -> bool:
        return all(
            s.action == "reuse" or self.results.get(self.plan.steps[first[s.key]].node.id) == "sealed"
            for s in (self.plan.steps[n] for n in self.plan.steps[index].needs)
        )

    def _start_ready(
        self, context: Any, left: set[int], first: Mapping[str, int], height: list[int]
    ) -> Iterator[Event]:
        for index in sorted(left, key=lambda i: (-height[i], i)):
            if not self._ready(index, first):
                continue
            step = self.plan.steps[index]
            cpus, gpus = self._free()
            asked = min(step.node.resources.cpus * processes(step.node), self.capacity.cpus)
            if step.node.resources.gpus > len(self.capacity.gpus):
                left.discard(index)
                self.results[step.node.id] = "refused"
                needed = (
                    f"it needs {step.node.resources.gpus} GPUs; this machine has {len(self.capacity.gpus)}"
                )
                yield Event(step.node.id, "refused", message=needed)
                continue
            if asked > cpus or step.node.resources.gpus > len(gpus):
                continue
            left.discard(index)
            self._start(context, index, gpus[: step.node.resources.gpus])
            yield Event(step.node.id, "started")

    def _free(self) -> tuple[int, tuple[str, ...]]:
        busy = [r.step.node for r in self._running.values()]
        used = {gpu for r in self._running.values() for gpu in r.gpus}
        cpus = sum(min(n.resources.cpus * processes(n), self.capacity.cpus) for n in busy)
        return self.capacity.cpus - cpus, tuple(g for g in self.capacity.gpus if g not in used)

    def _start(self, context: Any, index: int, gpus: tuple[str, ...]) -> None:
        step = self.plan.steps[index]
        path = description_path(self.store, self.plan.program, step.key)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        process = context.Process(target=run_child, args=(str(self.store.root), str(path), environment))
        with _interrupts_put_off():
            process.start()
            self._running[index] = _Running(step, index, process, gpus, time.monotonic())

    def _progress(self, running: _Running) -> Progress:
        try:
            asked = self.plan.program.identities[running.index].asked
            told = read_json(self.store.progress(asked))
            return Progress(told["done"], told["total"], told["text"])
        except (OSError, ValueError, KeyError):
            return Progress(0, 0, "")

    def _finish(self, index: int) -> Event:
        running = self._running.pop(index)
        running.process.join()
        step, code = running.step, running.process.exitcode
        seconds = time.monotonic() - running.started
        sealed = self.store.locate(step.node.kind.name, step.key) if code == Outcome.SEALED else None
        if sealed:
            self.results[step.node.id] = "sealed"
            # Under another key: a choice fell on something with which this had been done before.
            return Event(step.node.id, "reused" if sealed in self._before else "sealed", seconds)
        names = {o.value: o.name.lower() for o in Outcome}
        what = names.get(code if code is not None and code > 0 else Outcome.FAILED, "failed")
        self.results[step.node.id] = what
        return Event(step.node.id, what, seconds, self._why(index, code))

    def _why(self, index: int, code: int | None) -> str:
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        try:
            asked = self.plan.program.identities[index].asked
            return str(read_json(self.store.failure(asked))["message"])
        except (OSError, ValueError):
            return f"ended with code {code}"

    def _block(self, left: set[int], first: Mapping[str, int]) -> Iterator[Event]:
        """Give up on nodes that read one that failed."""
        lost = True
        while lost:
            lost = False
            for index in sorted(left):
                step = self.plan.steps[index]
                needed = (self.plan.steps[first[self.plan.steps[n].key]].node.id for n in step.needs)
                failed = [n for n in needed if self.results.get(n, "sealed") != "sealed"]
                if failed:
                    left.discard(index)
                    self.results[step.node.id] = "skipped"
                    yield Event(step.node.id, "skipped", message=f"{failed[0]} {self.results[failed[0]]}")
                    lost = True

    def _stop(self) -> None:
        """End what still runs: asked first, then killed."""
        for running in self._running.values():
            running.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for running in self._running.values():
            running.process.join(max(0.0, deadline - time.monotonic()))
            if running.process.is_alive():
                running.process.kill()
                running.process.join()
