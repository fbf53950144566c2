"""Which GPUs `alignc run` shares out, as told by the environment or by nvidia-smi."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.local import Capacity, LocalRun, machine
from compiler.planning.plan import State, make_plan
from runtime.store import Store
from tests.compiler.specs import compile_text

ARMS = """\
experiment: arms
axes: {seed: [0, 1, 2, 3, 4]}
sources:
  tasks: {kind: world, size: 20}
stages:
  arm: {kind: prepare, source: tasks, seed: "${seed}", resources: {gpus: 1}}
"""

WHOLE = "GPU 0: NVIDIA H200 (UUID: GPU-aa)\nGPU 1: NVIDIA H200 (UUID: GPU-bb)\n"
CUT = """GPU 0: NVIDIA H200 (UUID: GPU-aa)
  MIG 1g.18gb     Device  0: (UUID: MIG-11)
  MIG 1g.18gb     Device  1: (UUID: MIG-22)
GPU 1: NVIDIA H200 (UUID: GPU-bb)
"""


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("", ()),
        ("2,5", ("2", "5")),
        ("0, 1", ("0", "1")),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("0,-1,1", ("0",)),
        ("1,1", ("1",)),
        ("MIG-11,GPU-bb", ("MIG-11", "GPU-bb")),
    ],
)
def test_an_allocation_is_read_as_cuda_reads_it(
    monkeypatch: pytest.MonkeyPatch, visible: str, gpus: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine().gpus == gpus


@pytest.mark.parametrize(
    ("printed", "code", "gpus"),
    [
        (WHOLE, 0, ("0", "1")),
        (CUT, 0, ("MIG-11", "MIG-22", "1")),
        ("No devices were found\n", 0, ()),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9, ()),
    ],
)
def test_a_machine_is_asked_for_its_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: str, code: int, gpus: tuple[str, ...]
) -> None:
    (tmp_path / "listed").write_text(printed)
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\ncat {tmp_path}/listed\nexit {code}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine().gpus == gpus


def test_more_arms_than_gpus_run_side_by_side_each_with_its_own(tmp_path: Path) -> None:
    plan = make_plan(compile_text(tmp_path, ARMS), State())
    local = LocalRun(plan, Store(tmp_path / "s"), Capacity(8, ("MIG-11", "GPU-bb")))
    held: dict[str, tuple[str, ...]] = {}  # node at work -> its GPUs
    most = 0
    for event in local.run():
        if event.what == "started":
            held[event.node] = next(r.gpus for r in local._running.values() if r.step.node.id == event.node)
        else:
            assert event.what == "sealed", event
            del held[event.node]
        shared = [gpu for gpus in held.values() for gpu in gpus]
        assert len(shared) == len(held) == len(set(shared))
        most = max(most, len(held))
    assert most == 2 and len(local.results) == 5
