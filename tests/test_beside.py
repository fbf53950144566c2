"""Arms of one task side by side: shares of the GPUs, ends of their own, one requeue for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.output.describe import description_path, write_descriptions
from runtime.claims import owner_of
from runtime.files import read_json, write_json
from runtime.run_job import Outcome
from runtime.slurm.beside import shares
from runtime.store import Store
from tests.compiler.specs import compile_text

C, R = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("gpus", "arms", "environment", "expected"),
    [
        (0, 2, {C: "0,1"}, [{}, {}]),
        (1, 3, {C: "0,1,2"}, [{C: "0"}, {C: "1"}, {C: "2"}]),
        (2, 2, {C: "4,5,6,7"}, [{C: "4,5"}, {C: "6,7"}]),
        (1, 2, {C: "GPU-a,MIG-b", R: "0,1"}, [{C: "GPU-a"}, {C: "MIG-b"}]),
        (1, 2, {R: "0,1"}, [{R: "0"}, {R: "1"}]),
        (2, 2, {}, [{C: "0,1"}, {C: "2,3"}]),  # Slurm says nothing: all that the node has
    ],
)
def test_shares_of_the_gpus(
    gpus: int, arms: int, environment: dict[str, str], expected: list[dict[str, str]]
) -> None:
    assert shares(gpus, arms, environment) == expected


def test_nobody_shares_a_gpu() -> None:
    with pytest.raises(RuntimeError, match="3 arms need 6 GPUs, and CUDA_VISIBLE_DEVICES is 0,1,2,3"):
        shares(2, 3, {C: "0,1,2,3"})


SPEC = """\
experiment: arms
llms: {judge: {provider: simulated}}
sources:
  tasks: {kind: world, size: 8}
  bad: {kind: jsonl, path: bad.jsonl}
stages:
  good: {kind: prepare, source: tasks}
  after: {kind: demonstrate, prompts: good, teacher: judge}
  broken: {kind: prepare, source: bad}
"""


def test_an_arm_that_fails_stops_no_other(store: Store, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("not json\n")
    program = compile_text(tmp_path, SPEC)
    write_descriptions(store, program, set(program.keys))
    keys = {node.id: key for node, key in zip(program.graph.nodes, program.keys, strict=True)}
    good, after, broken = (
        str(description_path(store, program, keys[id_])) for id_ in ("good", "after", "broken")
    )
    write_json(tmp_path / "job.json", {"tasks": [[[broken], [good, after]]]})
    words = [sys.executable, "-m", "runtime.run_task", str(store.root), str(tmp_path / "job.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == Outcome.REFUSED, done.stderr
    assert "broken: refused (3)" in done.stdout and "good: sealed (0)" in done.stdout
    assert store.sealed() == {keys["good"], keys["after"]} and store.failures() == {keys["broken"]}
    assert all(store.log(key).read_text().count("== ") == 1 for key in program.keys)


SLOW = """\
experiment: slow
axes: {seed: [0, 1]}
llms: {weak: {provider: simulated, knows: [copy]}}
sources: {tasks: {kind: world, size: 5000}}
stages:
  tasks_: {kind: prepare, source: tasks}
  ask: {kind: demonstrate, prompts: tasks_, teacher: weak, temperature: 1, seed: "${seed}"}
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 5), (signal.SIGKILL, -9)])
def test_what_ends_a_task_ends_its_arms(store: Store, tmp_path: Path, number: int, code: int) -> None:
    """Asked to stop, it hands that on and waits for them; where it is killed outright, they are told so."""
    program = compile_text(tmp_path, SLOW)
    write_descriptions(store, program, set(program.keys))
    first, *arms = (str(description_path(store, program, key)) for key in program.keys)
    write_json(tmp_path / "job.json", {"tasks": [[first], [[arm] for arm in arms]]})
    words = [sys.executable, "-m", "runtime.run_task", str(store.root), str(tmp_path / "job.json")]
    subprocess.run(words, check=True, timeout=120, capture_output=True)
    out = tmp_path / "out"
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    task = subprocess.Popen(words, env=environment, stdout=out.open("w"))
    held: dict[str, int] = {}

    def hold() -> bool:
        for key in set(program.keys[1:]) - held.keys():
            owner = owner_of(store.claim_folder(key))
            if owner and store.progress(key).exists():
                os.kill(owner["pid"], signal.SIGSTOP)
                held[key] = owner["pid"]
        return len(held) == 2

    until(hold, "both arms at work")
    task.send_signal(number)
    if number == signal.SIGKILL:
        task.wait()  # the kernel tells the arms
    else:
        until(lambda: "SIGTERM: handed on to 2 arms" in out.read_text(), "word of it")
    for pid in held.values():
        os.kill(pid, signal.SIGCONT)
    assert task.wait(60) == code
    until(lambda: store.failures() == held.keys(), "their records")
    assert {read_json(store.failure(key))["outcome"] for key in held} == {"interrupted"}


def until(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)
