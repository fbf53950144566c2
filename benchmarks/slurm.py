"""What it costs to hand an experiment to Slurm, how fast a job follows its parent, and what a kill costs.

    python benchmarks/slurm.py [--jobs 10000] [--hops 20] [--kills 200] [--write docs/benchmarks.md]

A cluster of its own is started on this machine (as root), its partition closed while jobs are submitted:
so what is measured is the submission, and nothing runs beside it. Calls of sbatch are counted by a
program of that name that comes first on PATH.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from table import machine, markdown, write

HERE = Path(__file__).parent
CLUSTER = HERE.parent / "tests" / "slurm" / "cluster.sh"
ALIGNC = Path(sys.executable).with_name("alignc")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
LIMIT_S = 120.0  # after that long a submission is stopped, and what it did until then is told
ARRAY = 1001  # MaxArraySize, as Slurm has it by default

FLAT = """\
experiment: flat
axes: {{number: {numbers}}}
llms: {{strong: {{provider: simulated}}}}
sources: {{tasks: {{kind: world, size: 40}}}}
stages:
  prompts: {{kind: prepare, source: tasks}}
  answers: {{kind: demonstrate, prompts: prompts, teacher: strong, seed: "${{number}}"}}
"""
CHAIN = """\
experiment: chain
axes: {{run: {runs}}}
llms: {{strong: {{provider: simulated}}}}
sources: {{tasks: {{kind: world, size: 40}}}}
stages:
  prompts: {{kind: prepare, source: tasks, seed: "${{run}}"}}
  answers: {{kind: demonstrate, prompts: prompts, teacher: strong}}
  score: {{kind: evaluate, completions: answers}}
"""
ARRAYS = """\
import math, sys, submitit
folder, jobs, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
executor = submitit.SlurmExecutor(folder)
executor.update_parameters(time=10, array_parallelism=size)
for first in range(0, jobs, size):
    executor.map_array(math.sqrt, range(first, min(jobs, first + size)))
"""
SINGLES = """\
import math, sys, submitit
executor = submitit.SlurmExecutor(sys.argv[1])
executor.update_parameters(time=10)
for number in range(int(sys.argv[2])):
    executor.submit(math.sqrt, number)
"""
SNAKEFILE = """\
rule all:
    input: expand("out/{{number}}", number=range({jobs}))

rule one:
    output: "out/{{number}}"
    shell: "touch {{output}}"
"""


@dataclass(frozen=True)
class Submission:
    name: str
    submitted: int  # tasks in the queue at the end
    calls: int  # of sbatch
    wall_s: float
    cpu_s: float
    stopped: bool  # for it took too long


@dataclass(frozen=True)
class Site:
    """A cluster of this machine, and the folder that a benchmark works in."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{ENVIRONMENT['PATH']}"
        return {**ENVIRONMENT, "SLURM_CONF": str(self.folder / "cluster" / "slurm.conf"), "PATH": path}

    def slurm(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def queued(self) -> int:
        return len(self.slurm("squeue", "--noheader", "--array", "--format=%i").splitlines())

    def calls(self) -> int:
        count = self.folder / "calls"
        return len(count.read_bytes()) if count.exists() else 0

    def clear(self) -> None:
        """Cancel all jobs; Slurm forgets them soon."""
        self.slurm("scancel", "--user", "root")
        while self.queued():
            time.sleep(0.5)
        (self.folder / "calls").unlink(missing_ok=True)

    def open(self, state: str) -> None:
        self.slurm("scontrol", "update", "partitionname=main", f"state={state}")


@contextmanager
def site() -> Iterator[Site]:
    """A cluster with Slurm's own limit on arrays, and room for all jobs; ended with this."""
    with tempfile.TemporaryDirectory() as name:
        made = Site(Path(name))
        (made.folder / "bin").mkdir()
        sbatch = made.folder / "bin" / "sbatch"
        count = shlex.quote(str(made.folder / "calls"))
        sbatch.write_text(f'#!/bin/sh\nprintf x >> {count}\nexec /usr/bin/sbatch "$@"\n')
        sbatch.chmod(0o755)
        extra = f"MaxArraySize={ARRAY}\nMaxJobCount=200000\nMinJobAge=150\n"
        knobs = {"CLUSTER": str(made.folder / "cluster"), "NODES": "2", "EXTRA": extra}
        (made.folder / "cluster").mkdir()
        words = ["bash", str(CLUSTER)]
        with (made.folder / "cluster.log").open("w") as log:
            subprocess.run([*words, "up"], env={**os.environ, **knobs}, check=True, stdout=log, stderr=log)
            try:
                yield made
            finally:
                subprocess.run([*words, "down"], env={**os.environ, **knobs}, stdout=log, stderr=log)


# ---------------------------------------------------------------- submission


def submission(
    at: Site, name: str, call: Sequence[str | Path], folder: Path, jobs: int, *, stays: bool = False
) -> Submission:
    """What one command takes to submit `jobs` tasks. `stays`: it goes on until it is stopped."""
    at.clear()
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in call],
        cwd=folder,
        env=at.environment,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "errors").open("w"),
        start_new_session=True,
    )
    stopped, wall_s = False, 0.0
    while process.poll() is None:
        wall_s = time.perf_counter() - begin
        if stays and at.queued() >= jobs:
            break
        stopped = wall_s > LIMIT_S
        if stopped:
            break
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0 if stays else 60.0)
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()
    elif process.returncode:
        raise SystemExit(f"{name} failed: {(folder / 'errors').read_text()[-2000:]}")
    else:
        wall_s = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Submission(name, at.queued(), at.calls(), wall_s, cpu_s, stopped)


def submissions(at: Site, jobs: int, rivals: Path) -> Iterator[Submission]:
    """Every tool on jobs that need nothing of each other; ours on a graph of as many too."""
    folder = at.folder / "work"
    folder.mkdir()
    groups = max(1, round((jobs - 3) / 36))
    graph = 36 * groups + 3
    subprocess.run([sys.executable, HERE / "shape.py", str(groups), folder], check=True)
    (folder / "flat.yaml").write_text(FLAT.format(numbers=list(range(jobs - 1))))
    snakes = [folder / "snake", folder / "arrays"]  # a run that is stopped leaves a lock behind
    for snake in snakes:
        snake.mkdir()
        (snake / "Snakefile").write_text(SNAKEFILE.format(jobs=jobs))
    (folder / "arrays.py").write_text(ARRAYS)
    (folder / "singles.py").write_text(SINGLES)
    at.open("down")
    submit = (ALIGNC, "submit", "--store")
    yield submission(at, "`alignc submit`", (*submit, "flat", "flat.yaml"), folder, jobs)
    name = f"`alignc submit`, a graph of {graph:,}"
    yield submission(at, name, (*submit, "graph", "bench.yaml"), folder, graph)
    python, size = sys.executable, str(ARRAY - 1)
    call = (python, "arrays.py", "map", str(jobs), size)
    yield submission(at, "submitit, `map_array`", call, folder, jobs)
    call = (python, "singles.py", "singles", str(jobs))
    yield submission(at, "submitit, `submit`", call, folder, jobs)
    snakemake = rivals.absolute() / "bin" / "snakemake"
    if snakemake.exists():
        words = [snakemake, "--executor", "slurm", "--jobs", str(jobs), "--slurm-no-account", "--quiet"]
        words += ["--default-resources", "slurm_partition=main", "runtime=10", "mem_mb=100"]
        arrays = ["--slurm-array-jobs=all", f"--slurm-array-limit={size}"]
        yield submission(at, "Snakemake's executor", words, snakes[0], jobs, stays=True)
        name = "Snakemake's executor, arrays"
        yield submission(at, name, [*words, *arrays], snakes[1], jobs, stays=True)
    at.clear()
    at.open("up")


def submission_row(done: Submission) -> tuple[str, ...]:
    wall = f"over {done.wall_s:.0f}, stopped" if done.stopped else f"{done.wall_s:.1f}"
    return done.name, f"{done.submitted:,}", f"{done.calls:,}", wall, f"{done.cpu_s:.1f}"


# ---------------------------------------------------------------- from a parent's end to its child's start


def our_hops(at: Site, hops: int) -> list[float]:
    """Seconds between jobs of chains of three, one chain at a time."""
    folder = at.folder / "hops"
    folder.mkdir()
    times = folder / "times"
    python = folder / "python"  # tells when a job's own work has ended
    python.write_text(
        f'#!/bin/sh\n{shlex.quote(sys.executable)} "$@"\ncode=$?\n'
        f"echo end $(date +%s.%N) >> {shlex.quote(str(times))}\nexit $code\n"
    )
    python.chmod(0o755)
    begin = f"echo begin $(date +%s.%N) >> {shlex.quote(str(times))}"
    (folder / "site.yaml").write_text(f"python: {python}\nsetup: [{begin!r}]\n")
    found: list[float] = []
    for run in range((hops + 1) // 2):
        times.unlink(missing_ok=True)
        (folder / "chain.yaml").write_text(CHAIN.format(runs=[run]))
        call = [ALIGNC, "submit", "chain.yaml", "--cluster", "site.yaml", "--store", "store"]
        subprocess.run(call, cwd=folder, env=at.environment, check=True, stdout=subprocess.DEVNULL)
        found += _between(at, times)
    return found


def bare_hops(at: Site, hops: int) -> list[float]:
    """The same of jobs that do nothing, each behind the one before it by `afterok`."""
    times = at.folder / "bare"
    script = "; ".join(
        f"echo {word} $(date +%s.%N) >> {shlex.quote(str(times))}" for word in ("begin", "end")
    )
    found: list[float] = []
    for _ in range((hops + 1) // 2):
        times.unlink(missing_ok=True)
        after: tuple[str, ...] = ()
        for _ in range(3):
            call = ("sbatch", "--parsable", "--output=/dev/null", *after, f"--wrap={script}")
            after = (f"--dependency=afterok:{at.slurm(*call).strip()}",)
        found += _between(at, times)
    return found


def _between(at: Site, times: Path) -> list[float]:
    """Waits until the queue is empty; then the seconds from each end to the next begin."""
    while at.queued():
        time.sleep(0.5)
    told = [line.split() for line in times.read_text().splitlines()]
    assert [word for word, _ in told] == ["begin", "end"] * 3, told
    seconds = [float(second) for _, second in told]
    return [seconds[i + 1] - seconds[i] for i in (1, 3)]


def hop_row(name: str, found: Sequence[float]) -> tuple[str, ...]:
    return name, str(len(found)), f"{median(found):.2f}", f"{min(found):.2f}", f"{max(found):.2f}"


# ---------------------------------------------------------------- kills


def killed(kills: int) -> str:
    """The test that kills `submit` at random moments, so many times; what it counted."""
    test = "tests/slurm/test_submission.py::test_submissions_killed_at_random"
    call = [sys.executable, "-m", "pytest", "-q", "-s", test]
    environment = {**os.environ, "ALIGNC_KILLS": str(kills)}
    done = subprocess.run(call, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"\d+ of \d+ were killed before they ended", done.stdout)
    if done.returncode or not found:
        raise SystemExit(done.stdout[-3000:])
    return (
        f"`alignc submit` killed at random {kills} times ({found[0]}), each time submitted again: "
        "0 nodes lost, 0 submitted twice, 0 jobs that the store does not know of."
    )


# ---------------------------------------------------------------- all of it


def versions(at: Site, rivals: Path) -> str:
    """Slurm and the rivals."""
    names = {Path(sys.executable): ("submitit",)}
    names[rivals / "bin" / "python"] = ("snakemake", "snakemake-executor-plugin-slurm")
    told = [at.slurm("sinfo", "--version").strip()]
    for python, packages in names.items():
        if not python.exists():
            told.append(f"no {packages[0]} in {rivals}, so it is not measured (benchmarks/README.md)")
            continue
        for package in packages:
            ask = f"import importlib.metadata as m; print(m.version({package!r}))"
            said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
            told.append(f"{package} {said.stdout.strip()}")
    return "; ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000, help="how many jobs are submitted")
    parser.add_argument("--hops", type=int, default=20, help="pairs of parent and child")
    parser.add_argument("--kills", type=int, default=200, help="kills of submit; 0 leaves them out")
    parser.add_argument("--rivals", type=Path, default=HERE / ".venv", help="venv of Snakemake")
    parser.add_argument("--write", type=Path, help="also put the tables into this page, between its marks")
    asked = parser.parse_args()
    with site() as at:
        parts = [f"{machine()}; {versions(at, asked.rivals)}."]
        rows = [submission_row(done) for done in submissions(at, asked.jobs, asked.rivals)]
        header = ("command", "tasks submitted", "calls of sbatch", "wall, s", "CPU, s")
        parts.append(markdown(header, rows, words=(0,)))
        hops = {
            "a chain of `alignc submit`": our_hops(at, asked.hops),
            "bare jobs, `afterok`": bare_hops(at, asked.hops),
        }
        header = ("from a parent's end to its child's start", "pairs", "median, s", "least", "most")
        parts.append(markdown(header, [hop_row(name, found) for name, found in hops.items()], words=(0,)))
    if asked.kills:
        parts.append(killed(asked.kills))
    text = "\n\n".join(parts)
    print(text)
    if asked.write:
        write(asked.write, "slurm.py", text)


if __name__ == "__main__":
    main()
