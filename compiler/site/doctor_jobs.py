"""Sends small jobs to the partitions of a profile, through its whole script, and waits for what they find."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.planning.plan import JobGroup
from compiler.site.doctor import Check, Needs, check_machine
from compiler.site.facts import Site
from compiler.site.profile import Profile
from compiler.site.shell import python_inside
from compiler.slurm.reasons import waits
from compiler.slurm.script import script_text
from runtime.files import read_json
from runtime.probe import HERE
from runtime.slurm.limits import ask
from runtime.slurm.sbatch import Refused, sbatch
from runtime.stage import Resources

MINUTES = 5
POLL_S = 1.0
VISIBLE_S = 15.0  # how long a file may take from a node to here
LINES = 5  # of a failed job's output


@dataclass(frozen=True, slots=True)
class Probe:
    """A job on its way; `partition` None is Slurm's default."""

    partition: str | None
    gpus: int
    name: str
    slurm_id: str

    @property
    def group(self) -> str:
        return f"node of {self.partition or 'the default partition'}"


def probe_here(folder: Path, needs: Needs) -> Any:
    """The same look at this machine. Raises OSError, ValueError or CalledProcessError."""
    words = [sys.executable, "-m", "runtime.probe", str(folder), "local", *needs.keys]
    subprocess.run(words, check=True, timeout=300)
    return read_json(folder / "local.json")


def check_nodes(folder: Path, profile: Profile, site: Site, needs: Needs, wait_s: float) -> Iterator[Check]:
    """Submit a job to each partition; tell what they find, for `wait_s` seconds at most."""
    (folder / HERE).touch()
    probes: list[Probe] = []
    for partition in _partitions(profile, site):
        try:
            probes.append(_send(folder, partition, profile, needs))
        except Refused as error:
            where = f"node of {partition or 'the default partition'}"
            yield Check(where, "problem", f"sbatch refused a job: {error}", "mend the profile")
    deadline = time.monotonic() + wait_s
    waiting = list(probes)
    try:
        while waiting and time.monotonic() < deadline:
            states = _states(waiting)
            for probe in list(waiting):
                found = [] if states is None else list(_found(probe, folder, states, profile, needs))
                if found:
                    yield from found
                    waiting.remove(probe)
            time.sleep(POLL_S if waiting else 0)
        for probe in waiting:
            yield _late(probe, _states([probe]) or {}, wait_s)
    finally:  # also where a person will not wait
        if waiting:
            subprocess.run(["scancel", *(p.slurm_id for p in waiting)], capture_output=True, check=False)


def _partitions(profile: Profile, site: Site) -> Sequence[str | None]:
    """Those that jobs may go to and that are there; the default one where none is named."""
    rules = [rule.partition for rule in profile.resources]
    asked = [profile.partition, *rules] if profile.partition else [*profile.partitions, *rules]
    names = list(dict.fromkeys(filter(None, asked)))
    return [name for name in names if name in site.partitions] if names else [None]


def _send(folder: Path, partition: str | None, profile: Profile, needs: Needs) -> Probe:
    name = f"probe-{secrets.token_hex(4)}"
    there = profile.partitions.get(partition or "")
    gpus = 1 if there is not None and there.has_gpus else 0
    resources = Resources(cpus=1, gpus=gpus, memory_gb=2, minutes=MINUTES, partition=partition)
    words = ["-m", "runtime.probe", str(folder), name, *needs.keys]
    text = script_text(
        JobGroup("alignc.doctor", ((),), resources, 1, (), ()),
        profile,
        token="doctor",
        logs=str(folder),
        work=shlex.join([python_inside(profile, sys.executable), *words]),
        store=shlex.quote(str(folder)),
    )
    return Probe(partition, gpus, name, sbatch(folder, text, []))


def _states(probes: Sequence[Probe]) -> dict[str, tuple[str, str]] | None:
    """Slurm id -> state and reason, of jobs that Slurm still knows; None where it does not answer."""
    ids = ",".join(probe.slurm_id for probe in probes)
    told = ask("squeue", "--noheader", "--states=all", f"--jobs={ids}", "--format=%i|%T|%r")
    if told is None:
        return None
    rows = (line.split("|", 2) for line in told.splitlines() if line.count("|") >= 2)
    return {job: (state, reason) for job, state, reason in rows}


def _found(
    probe: Probe, folder: Path, states: Mapping[str, tuple[str, str]], profile: Profile, needs: Needs
) -> Iterator[Check]:
    """What a job found, once it has; why it found nothing, once it has ended so."""
    path = folder / f"{probe.name}.json"
    state, _ = states.get(probe.slurm_id, ("COMPLETED", ""))
    ended = state not in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED")
    if ended and not path.exists():
        _await(path)
    if path.exists():
        told = read_json(path)
        age_s = told["time"] - path.stat().st_mtime
        yield from check_machine(
            probe.group, told, needs, profile, on_slurm=True, gpus=probe.gpus, age_s=age_s
        )
    elif ended:
        text = f"job {probe.slurm_id} ended ({state.lower()}) and left nothing here"
        output = _output(folder, probe.slurm_id)
        fix = "the nodes may not see the store: put it on a shared folder (`--store`)"
        fix = f"it printed: {'; '.join(output)}" if output else fix
        yield Check(probe.group, "problem", text, fix)


def _await(path: Path) -> None:
    """Files come late over NFS."""
    deadline = time.monotonic() + VISIBLE_S
    while not path.exists() and time.monotonic() < deadline and not list(path.parent.glob("*.out")):
        time.sleep(POLL_S)


def _output(folder: Path, slurm_id: str) -> list[str]:
    """The last lines that a job printed."""
    files = list(folder.glob(f"*-{slurm_id}.out"))
    return files[0].read_text(errors="replace").strip().splitlines()[-LINES:] if files else []


def _late(probe: Probe, states: Mapping[str, tuple[str, str]], wait_s: float) -> Check:
    state, reason = states.get(probe.slurm_id, ("UNKNOWN", ""))
    if state == "PENDING":
        text = f"job {probe.slurm_id} did not start within {wait_s:g} s: {waits(reason) or 'no reason told'}"
    else:
        text = f"job {probe.slurm_id} did not end within {wait_s:g} s ({state.lower()})"
    return Check(
        probe.group, "warning", f"{text}; cancelled", "nothing is known of these nodes: `--wait 600`"
    )
