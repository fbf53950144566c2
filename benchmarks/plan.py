"""How long a plan takes, as whole processes, beside Snakemake's dry run and doit's list of the same graph.

    python benchmarks/plan.py [--jobs 1000,10000,100000] [--rivals VENV] [--write docs/benchmarks.md]

The tools take turns in every repetition. What is measured is what a user waits for: start-up, reading
the spec, planning, printing. Every command is run once before, to fill caches and to check what it says.
This module imports nothing big: a process is said to have used at least the memory of who started it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from table import machine, markdown, write

HERE = Path(__file__).parent
ENOUGH_S = 60.0  # what a command may take, all its repetitions together, before there are no more
# As after an ordinary installation, the tools' modules are compiled and stay so.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
HEADER = ("jobs", "command", "runs", "wall, s", "CPU, s", "CPU, ms a job", "memory, MB")


@dataclass(frozen=True)
class Run:
    wall_s: float
    cpu_s: float
    memory_mb: float


@dataclass(frozen=True)
class Command:
    """What is measured, and the pattern that must stand so many times in what it prints."""

    name: str
    jobs: int
    call: tuple[str, ...]
    folder: Path
    expected: str
    times: int = 1
    runs: list[Run] = field(default_factory=list)


def measure(command: Command, limit_s: float) -> Run | None:
    """One run, also of what it started; None where it took longer than the limit."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command.call,
        cwd=command.folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    timer = threading.Timer(limit_s, process.kill)
    timer.start()
    _, status, used = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - begin
    if wall_s >= limit_s:
        return None
    if process.returncode:
        raise SystemExit(f"{' '.join(command.call)} failed in {command.folder}")
    return Run(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def check(command: Command, limit_s: float) -> bool:
    """Whether a command does what it should, within the limit."""
    try:
        done = subprocess.run(
            command.call,
            cwd=command.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    said = done.stdout + done.stderr
    if done.returncode or len(re.findall(command.expected, said, re.MULTILINE)) != command.times:
        raise SystemExit(f"{' '.join(command.call)} did not say {command.expected!r}:\n{said[-2000:]}")
    return True


# ---------------------------------------------------------------- commands


def ours(groups: int, folder: Path) -> list[Command]:
    """Our commands on the experiment of `shape.py`."""
    jobs, again = 36 * groups + 3, 3 * groups
    edited = f"^0 to run .* {again} to run again .* {jobs - again} reused"

    def plan(what: str, spec: str, store: str, expected: str) -> Command:
        call = (alignc(), "plan", spec, "--store", store)
        return Command(f"`alignc plan`, {what}", jobs, call, folder, expected)

    return [
        plan("nothing made", "bench.yaml", "none", f"^{jobs} to run .* 0 reused"),
        plan("all made", "bench.yaml", "store", f"^0 to run .* {jobs} reused"),
        plan("all made, a line edited", "edited.yaml", "store", edited),
    ]


def snakemake(program: Path, jobs: int, folder: Path) -> list[Command]:
    """Its dry run, which prints a count of each rule's jobs and of all, `all` being one more, twice."""
    call = (str(program), "-n", "-q", "rules")
    name, done = "`snakemake -n -q rules`", folder / "snakemake-done"
    return [
        Command(f"{name}, nothing made", jobs, call, folder / "snakemake", rf"^total +{jobs + 1}$", 2),
        Command(f"{name}, all made", jobs, call, done, "^Nothing to be done"),
    ]


def doit(program: Path, jobs: int, folder: Path) -> list[Command]:
    """Its list of tasks, to be run or up to date; first everything is made, and its database with it."""
    subprocess.run([program, "run"], cwd=folder / "doit-done", check=True, stdout=subprocess.DEVNULL)
    call = (str(program), "list", "--all", "--status")
    name = "`doit list --all --status`"
    return [
        Command(f"{name}, nothing made", jobs, call, folder / "doit", r"^R \w+:\d", jobs),
        Command(f"{name}, all made", jobs, call, folder / "doit-done", r"^U \w+:\d", jobs),
    ]


RIVALS = {"snakemake": snakemake, "doit": doit}


def alignc() -> str:
    """The command of the Python that runs this."""
    return str(Path(sys.executable).with_name("alignc"))


def repeat(commands: Sequence[Command], times: int, limit_s: float) -> None:
    """Run the commands in turns, each until it has taken enough time."""
    willing = [command for command in commands if check(command, limit_s)]
    for _ in range(times):
        for command in willing:
            if sum(run.wall_s for run in command.runs) < ENOUGH_S:
                run = measure(command, limit_s)
                command.runs.extend([run] if run else [])


def measured(size: int, rivals: Path, times: int, limit_s: float) -> list[Command]:
    """All commands on one size of the experiment."""
    groups = max(1, round((size - 3) / 36))
    jobs = 36 * groups + 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"making {jobs} jobs", file=sys.stderr)
        subprocess.run([sys.executable, HERE / "shape.py", str(groups), name], check=True)
        commands = ours(groups, folder)
        for rival, make in RIVALS.items():
            program = rivals / "bin" / rival
            commands += make(program.absolute(), jobs, folder) if program.exists() else []
        print(f"measuring {len(commands)} commands on {jobs} jobs", file=sys.stderr)
        repeat(commands, times, limit_s)
    return commands


# ---------------------------------------------------------------- the table


def row(command: Command, limit_s: float) -> tuple[str, ...]:
    jobs, runs = (f"{command.jobs:,}" if command.jobs else ""), command.runs
    if not runs:
        return jobs, command.name, "0", f"over {limit_s:g}", "", "", ""
    walls, cpu_s = [run.wall_s for run in runs], median(run.cpu_s for run in runs)
    wall = f"{median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f})"
    each = f"{1000 * cpu_s / command.jobs:.3f}" if command.jobs else ""
    memory = f"{median(run.memory_mb for run in runs):.0f}"
    return jobs, command.name, str(len(runs)), wall, f"{cpu_s:.2f}", each, memory


def versions(rivals: Path) -> str:
    """The rivals that are there, and those that are not."""
    told: list[str] = []
    for rival in RIVALS:
        program = rivals / "bin" / rival
        if program.exists():
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
            told.append(f"{rival} {said.stdout.split()[0]}")
        else:
            told.append(f"no {rival} in {rivals}, so it is not measured (benchmarks/README.md)")
    return "; ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", default="1000,10000,100000", help="sizes of the experiment")
    parser.add_argument("--repeat", type=int, default=5, help="times that each command is measured")
    parser.add_argument("--limit", type=float, default=600, help="seconds that a command may take")
    parser.add_argument("--rivals", type=Path, default=HERE / ".venv", help="venv of Snakemake and doit")
    parser.add_argument("--json", type=Path, help="also keep every run in this file")
    parser.add_argument("--write", type=Path, help="also put the table into this page, between its marks")
    asked = parser.parse_args()
    lines = [f"{machine()}; {versions(asked.rivals)}.", ""]
    start = Command("`alignc --help`", 0, (alignc(), "--help"), HERE, "Usage")
    repeat([start], 4 * asked.repeat, asked.limit)
    commands = [start]
    for size in map(int, asked.jobs.split(",")):
        commands += measured(size, asked.rivals, asked.repeat, asked.limit)
    lines.append(markdown(HEADER, [row(command, asked.limit) for command in commands], words=(1,)))
    text = "\n".join(lines)
    print(text)
    if asked.json:
        told = [{"name": c.name, "jobs": c.jobs, "runs": [asdict(r) for r in c.runs]} for c in commands]
        asked.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if asked.write:
        write(asked.write, "plan.py", text)


if __name__ == "__main__":
    main()
