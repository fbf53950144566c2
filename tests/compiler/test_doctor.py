"""The doctor's findings from what a site, a machine and a spec are like; each with what to fix."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from compiler.site import doctor, doctor_disk
from compiler.site.doctor import Check, Needs
from compiler.site.profile import Profile
from runtime.probe import HERE, probe
from runtime.provenance import code_digest
from tests.commands import alignc
from tests.compiler.specs import HEAD, compile_text
from tests.compiler.test_detect import site

MACHINE: dict[str, Any] = {
    "host": "n1",
    "python": "3.12.1",
    "executable": "/venv/bin/python",
    "code": code_digest(),
    "packages": {"torch": "2.9", "transformers": "5.23", "accelerate": "1.15", "deepspeed": "0.19"},
    "torch": {"gpus": [], "cuda": "12.8"},
    "driver": [],
    "compiles": "",
    "interfaces": ["lo", "ib0"],
    "commands": {"scontrol": True, "sbatch": True, "squeue": True, "srun": True},
    "keys": {},
    "temporary": "",
    "seen": True,
    "takes": False,
}


def bad(checks: Iterable[Check]) -> list[str]:
    found = [check for check in checks if check.outcome != "ok"]
    assert all(check.fix for check in found)
    return [f"{check.outcome}: {check.text}" for check in found]


@pytest.mark.parametrize(
    ("changed", "needs", "told", "gpus", "found"),
    [
        ({}, Needs(known=True, torch=True, deepspeed=True), {}, 0, []),
        (
            {"python": "3.9.7"},
            Needs(known=True),
            {},
            0,
            ["problem: Python 3.9.7 (/venv/bin/python) is too old"],
        ),
        ({"code": "x"}, Needs(known=True), {}, 0, ["problem: it runs another alignc than this one"]),
        (
            {"packages": {"torch": "2.9"}},
            Needs(known=True, torch=True),
            {},
            0,
            ["problem: not installed: transformers, accelerate, which the spec needs"],
        ),
        ({"packages": {}, "torch": None}, Needs(known=True), {}, 0, []),
        (
            {"compiles": "there is no ninja"},
            Needs(known=True, torch=True, deepspeed=True),
            {},
            0,
            ["problem: DeepSpeed cannot compile its ops: there is no ninja"],
        ),
        (
            {},
            Needs(known=True, torch=True),
            {},
            1,
            ["problem: 1 GPU was asked for, and torch (for CUDA 12.8) sees none; there is no nvidia-smi"],
        ),
        (
            {"torch": {"gpus": [{"name": "A100", "memory_gb": 80}], "cuda": "12"}},
            Needs(known=True),
            {},
            1,
            [],
        ),
        ({"keys": {"K": False}}, Needs(known=True, keys={"K": True}), {}, 0, ["problem: K is not set"]),
        ({"keys": {"K": False}}, Needs(known=True, keys={"K": False}), {}, 0, []),
        ({"keys": {"K": "others may\nchmod 600"}}, Needs(known=True), {}, 0, ["problem: others may"]),
        (
            {"seen": False},
            Needs(known=True),
            {},
            0,
            ["problem: it does not see a file of the store that was made here"],
        ),
        (
            {"takes": True},
            Needs(known=True),
            {},
            0,
            ["problem: it could take a name in the store that was taken here"],
        ),
        (
            {},
            Needs(known=True),
            {"network_interface": "eth0"},
            0,
            ["problem: it has no network interface eth0"],
        ),
        (
            {"commands": {"scontrol": False, "sbatch": False, "srun": True}},
            Needs(known=True),
            {"container": {"apptainer": "x.sif"}},
            0,
            ["warning: there is no scontrol, by which jobs requeue themselves"],
        ),
    ],
)
def test_machines(changed: Any, needs: Needs, told: Any, gpus: int, found: list[str]) -> None:
    checks = doctor.check_machine(
        "node", {**MACHINE, **changed}, needs, Profile.model_validate(told), on_slurm=True, gpus=gpus
    )
    assert bad(checks) == found


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, []),
        (
            {
                "partitions": {
                    "gpu": {"max_minutes": 2880, "gpu_type": "h100"},
                    "short": {"nodes": 2, "cpus": 16, "whole_nodes": True},
                }
            },
            [],
        ),
        ({"partition": "gpuu"}, ["problem: Slurm has no partition gpuu"]),
        ({"partition": "old"}, ["problem: partition old takes no jobs now"]),
        (
            {"partitions": {"short": {"max_minutes": 61, "memory_gb": 64}}},
            [
                "problem: partition short: the profile says 61 minutes, Slurm has 60",
                "problem: partition short: the profile says 64 GiB of memory a node, Slurm has 62.5",
                "warning: partition short gives whole nodes: a task that needs a part of one pays for all",
            ],
        ),
        ({"partition": "gpu", "gpu_type": "v100"}, ["problem: partition gpu has no GPU of type v100"]),
        (
            {"partition": "owners", "account": "math"},
            [
                "problem: partition owners is not for the account math",
                "problem: you may not charge the account math",
            ],
        ),
        (
            {"partition": "gpu", "qos": "high"},
            [
                "problem: partition gpu does not take the QOS high",
                "problem: account lab may not use the QOS high",
            ],
        ),
    ],
)
def test_profiles_against_what_slurm_has(told: Any, found: list[str]) -> None:
    assert bad(doctor.check_profile(Profile.model_validate(told), site())) == found


def test_what_a_spec_needs_of_a_site(tmp_path: Path) -> None:
    program = compile_text(
        tmp_path,
        HEAD.replace("weak: {provider: simulated}", "weak: {provider: openai, model: gpt-9}")
        + "stages:\n  prompts: {kind: prepare, source: tasks, resources: {minutes: 3000}}\n"
        + "  answers: {kind: demonstrate, prompts: prompts, teacher: weak}\n",
    )
    needs = doctor.needs_of(program)
    assert (needs.torch, needs.clients, needs.keys) == (False, {"openai"}, {"OPENAI_API_KEY": True})
    profile = Profile.model_validate({"partition": "gpu"})
    assert bad(doctor.check_spec(program, profile, site(), (), local=False)) == [
        "problem: prompts asks for 1 CPU, 4 GiB, 3000 minutes; partition gpu has 2880 minutes",
        "warning: nobody knows what gpt-9 costs (weak)",
    ]


def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with doctor_disk.trial_folder(tmp_path / "not" / "there") as folder:
        assert [c.outcome for c in doctor_disk.check_disk(tmp_path, folder)] == ["ok"] * 4
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "link", lambda one, other: None)  # a file system that gives a name to anyone
    with doctor_disk.trial_folder(tmp_path) as folder:
        found = bad(doctor_disk.check_disk(tmp_path, folder))
    assert found == [
        "problem: it is no file system that gives a name to one only: a link takes a name that is taken"
    ]


def test_a_probe_tells_whether_keys_are_set_and_never_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "very-secret")
    monkeypatch.setattr("runtime.probe._torch", lambda: {"gpus": [], "cuda": None})
    (tmp_path / HERE).touch()
    told = probe(tmp_path, ["MY_KEY", "NO_KEY"])
    assert told["keys"] == {"MY_KEY": True, "NO_KEY": False} and "very-secret" not in str(told)
    assert told["seen"] and not told["takes"]


def test_without_slurm_the_checks_are_those_of_local_runs(tmp_path: Path) -> None:
    told = alignc("doctor", "--store", "s", cwd=tmp_path, PATH="/usr/bin/nowhere")
    assert "Slurm\n  ok       not on this machine: checks are for `alignc run`\n" in told
    assert "this machine\n  ok       Python 3" in told and not (tmp_path / "s").exists()
