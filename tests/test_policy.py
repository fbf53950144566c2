"""What another try has, as a function of the rule, of what failed, and of the tries before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.files import read_json, write_json
from runtime.slurm import again as module
from runtime.slurm.again import adjusted, limits_of, micro_batch, read_again, take_again, write_again
from runtime.slurm.kinds import Kind
from runtime.slurm.policy import UNASKED, Again, Asked, Most, Policy, UsedUp, answer
from runtime.store import Store

HAD = Asked(memory_gb=32, minutes=60, micro_batch=8, node="n2")

# kind, its rule, the tries before -> what the next try has, and why
TRIES: list[tuple[Kind, dict[str, Any], Again, dict[str, Any], str]] = [
    (Kind.MEMORY, {}, Again(), {"memory_gb": 64}, "again with 64 GB: ran out of memory with 32"),
    (
        Kind.MEMORY,
        {"memory": 1.5, "max_memory_gb": 40},
        Again(),
        {"memory_gb": 40},
        "again with 40 GB: ran out of memory with 32",
    ),
    (
        Kind.MEMORY,
        {"memory": 9, "exclude_node": True},
        Again(),
        {"memory_gb": 100, "exclude": ("n2",)},
        "again with 100 GB and another node than n2: ran out of memory with 32",
    ),
    (
        Kind.IDLE,
        {},
        Again(),
        {"minutes": 90},
        "again with 90 minutes: reached its time limit again and again and got no further with 60",
    ),
    (
        Kind.GPU_MEMORY,
        {"halve_micro_batch": True},
        Again(),
        {"micro_batch": 4},
        "again with micro-batches of 4: ran out of GPU memory with 8",
    ),
    (Kind.GPU_MEMORY, {}, Again(), {}, "again: ran out of GPU memory"),
    (
        Kind.NODE,
        {"times": 2, "exclude_node": True},
        Again(tries={"node_failure": 1}, exclude=("n1",)),
        {"exclude": ("n1", "n2")},
        "again with another node than n1 or n2: its node failed",
    ),
    # What another kind of failure has led to stays.
    (
        Kind.EXCEPTION,
        {},
        Again(tries={"out_of_memory": 1}, memory_gb=64),
        {"memory_gb": 64},
        "again: raised an error",
    ),
]


def policy(kind: Kind, rule: dict[str, Any] | None) -> Policy:
    return Policy.model_validate({kind.value: rule})


@pytest.mark.parametrize(("kind", "rule", "before", "having", "why"), TRIES)
def test_another_try(
    kind: Kind, rule: dict[str, Any], before: Again, having: dict[str, Any], why: str
) -> None:
    found = policy(kind, rule).rule(kind)
    assert found is not None
    made = answer(found, kind, HAD, before, of=7.0, most=Most(100, 600))
    tried = {**before.tries, kind.value: before.tries.get(kind.value, 0) + 1}
    assert made == Again(tries=tried, of=7.0, times=found.times, why=why, **having)
    assert made.used_up(kind) is (tried[kind.value] >= found.times)


# kind, its rule, what the last try had, the tries before -> why there is none
ENDS: list[tuple[Kind, dict[str, Any], Asked, dict[str, int], str]] = [
    (Kind.MEMORY, {}, HAD, {"out_of_memory": 1}, "ran out of memory, and was tried again 1 time"),
    (Kind.EXCEPTION, {"times": 2}, HAD, {"exception": 2}, "raised an error, and was tried again 2 times"),
    (Kind.EXCEPTION, {"times": 0}, HAD, {}, "raised an error, and is not tried again"),
    (
        Kind.MEMORY,
        {"max_memory_gb": 32},
        HAD,
        {},
        "ran out of memory with 32 GB, and may have no more",
    ),
    (
        Kind.GPU_MEMORY,
        {"halve_micro_batch": True},
        Asked(1, 1, 1),
        {},
        "ran out of GPU memory, and has no micro-batch that could be halved",
    ),
    (
        Kind.GPU_MEMORY,
        {"halve_micro_batch": True},
        Asked(1, 1, None),
        {},
        "ran out of GPU memory, and has no micro-batch that could be halved",
    ),
]


@pytest.mark.parametrize(("kind", "rule", "had", "tries", "why"), ENDS)
def test_no_other_try(kind: Kind, rule: dict[str, Any], had: Asked, tries: dict[str, int], why: str) -> None:
    found = policy(kind, rule).rule(kind)
    assert found is not None
    with pytest.raises(UsedUp, match=f"^{why}$"):
        answer(found, kind, had, Again(tries=tries), of=7.0)


def test_what_is_not_asked_for_is_not_done() -> None:
    asked = {kind for kind in Kind if UNASKED.rule(kind)}
    assert asked == {Kind.NODE}
    assert policy(Kind.NODE, None).rule(Kind.NODE) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"micro_batch": 2, "batch_size": 8}, 2),
        ({"micro_batch": None, "batch_size": 8}, 8),
        ({"micro_batch": None, "batch_size": 9, "parallel": {"processes": 2}}, 5),
    ],
)
def test_the_micro_batch_of_a_config(config: dict[str, Any], expected: int | None) -> None:
    assert micro_batch(config) == expected


def script(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts in the place of Slurm's commands; what they are called with is kept."""
    folder = tmp_path / "bin"
    for name in ("scontrol", "scancel", "sinfo"):
        script(folder, name, f'echo {name} "$@" >> {tmp_path}/calls; echo ExcNodeList=n[8-9]')
    script(folder, "sinfo", "echo 'main*;2;64000+;infinite'; echo 'main*;1;128000;1-12:30:00'")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    limits_of.cache_clear()
    return folder


def test_the_limits_of_a_partition(bin_: Path) -> None:
    assert limits_of("main") == Most(125.0, float("inf"), 3)
    script(bin_, "sinfo", "echo 'low;1;128000;1-12:30:00'; echo 'low;1;1000;30:00'; echo nonsense")
    assert limits_of("low") == Most(125.0, 36 * 60 + 30, 2)
    script(bin_, "sinfo", "echo 'big;9;999000;infinite'; echo 'small*;2;1;30:00'")
    assert limits_of(None) == Most(float("inf"), 30, 2)  # the default one; it does not say its memory
    script(bin_, "sinfo", "exit 1")
    assert limits_of("gone") == Most()


DESCRIBED = {"key": "k", "config": {"micro_batch": None, "batch_size": 8}}


@pytest.fixture
def failed(store: Store, bin_: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A task of two jobs of which the first ran out of GPU memory, on Slurm, with a policy for that."""
    record = {"outcome": "failed", "message": "CUDA out of memory", "traceback": "", "time": 7.0}
    write_json(store.failure("k"), record)
    told = policy(Kind.GPU_MEMORY, {"halve_micro_batch": True, "exclude_node": True})
    environment = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2", module.VARIABLE: told.model_dump_json()}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    resources = {"memory_gb": 4.0, "minutes": 60}
    return [{**DESCRIBED, "key": key, "resources": resources} for key in ("k", "l")]


def calls(store: Store) -> list[str]:
    path = store.root.parent / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_requeues_itself_and_asks_for_what_it_needs(store: Store, failed: list[dict[str, Any]]) -> None:
    assert take_again(store, failed, since=6.0)
    assert calls(store) == [
        "scontrol requeue 7",
        "scontrol show job 7",
        "scontrol update JobId=7 ExcNodeList=n[8-9],n2",
    ]
    told = adjusted(store, failed[0])
    assert told["config"]["micro_batch"] == 4 and told["again"]["tries"] == {"out_of_gpu_memory": 1}
    # The next job of the task has the same trouble ahead; its own tries are not used up.
    assert adjusted(store, failed[1])["config"]["micro_batch"] == 4
    assert read_again(store, "l").tries == {}
    # A person who asks for still smaller ones is obeyed.
    assert adjusted(store, {**failed[0], "config": {"micro_batch": 2, "batch_size": 8}})["config"] == {
        "micro_batch": 2,
        "batch_size": 8,
    }
    assert not take_again(store, failed, since=6.0)  # once was allowed
    assert "was tried again 1 time" in read_json(store.failure("k"))["message"]


def test_what_slurm_refuses_is_told_and_not_run(
    store: Store, failed: list[dict[str, Any]], bin_: Path
) -> None:
    script(bin_, "scontrol", 'echo scontrol "$@" >> ' + f'{store.root.parent}/calls; test "$1" = requeue')
    assert not take_again(store, failed, since=6.0)
    assert calls(store)[-1] == "scancel 7"
    assert "Slurm refused ExcNodeList=n2" in read_json(store.failure("k"))["message"]


@pytest.mark.parametrize(
    ("variable", "record"),
    [
        ("", {}),  # no policy
        (policy(Kind.EXCEPTION, {"times": 9}).model_dump_json(), {"message": "KeyError", "repeats": 3}),
        (policy(Kind.MEMORY, {}).model_dump_json(), {"message": "KeyError"}),
        (policy(Kind.EXCEPTION, {}).model_dump_json(), {"outcome": "interrupted"}),
        (policy(Kind.GPU_MEMORY, {}).model_dump_json(), {"time": 5.0}),  # of an earlier try
    ],
)
def test_other_failures_are_left_alone(
    store: Store,
    failed: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    record: dict[str, Any],
) -> None:
    write_json(store.failure("k"), {**read_json(store.failure("k")), **record})
    monkeypatch.setenv(module.VARIABLE, variable)
    assert not take_again(store, failed, since=6.0)
    assert calls(store) == []


def test_a_damaged_file_is_as_none(store: Store) -> None:
    write_again(store, "k", Again(tries={"killed": 1}, why="again"))
    assert read_again(store, "k").tries == {"killed": 1}
    (store.work("k") / module.FILE).write_text("{")
    assert read_again(store, "k") == Again()
