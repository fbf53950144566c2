"""Tasks of an array side by side where a partition gives whole nodes: packing, scripts, hours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from compiler.cost.amounts import Cost, Costs, exactly
from compiler.errors import UsageError
from compiler.output import emit
from compiler.planning.beside import paid_gpus, side_by_side, with_whole_nodes
from compiler.planning.place import placed
from compiler.planning.plan import JobGroup, Plan, State, make_plan
from compiler.program import Program
from compiler.site.profile import Profile, load_profile
from compiler.slurm.script import make_script, throttle
from runtime.stage import Resources
from runtime.store import Store
from tests.compiler.specs import STUDY, compile_text
from tests.golden import check_golden

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "plan.schema.json").read_text())
NODE = {"whole_nodes": True, "cpus": 16, "gpus": 4, "memory_gb": 128, "gpu_type": "a100"}
RULES = [{"kind": "sft", "cpus": 4, "gpus": 1, "memory_gb": 16.0}, {"kind": "dpo", "gpus": 2}]


def site(**told: Any) -> Profile:
    return Profile.model_validate({"partitions": {"gpu": NODE}, "resources": RULES, **told})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return compile_text(tmp_path_factory.mktemp("study"), STUDY.replace("[0, 1]", "[0, 1, 2]"))


def packed(program: Program, profile: Profile, *stages: str) -> Plan:
    """The plan of these stages, all else being sealed."""
    there = placed(program, profile)
    sealed = frozenset(k for n, k in zip(there.graph.nodes, there.keys, strict=True) if n.stage not in stages)
    return side_by_side(make_plan(there, State(sealed=sealed), on_slurm=True), profile)


def job_of(plan: Plan, stage: str) -> JobGroup:
    return next(job for job in plan.jobs if job.name == f"study.{stage}")


@pytest.mark.parametrize(
    ("asked", "processes", "count", "sizes"),
    [
        ({"gpus": 1}, 1, 9, [3, 3, 3]),  # 4 fit; as even as may be, in as few tasks
        ({"gpus": 1}, 1, 8, [4, 4]),
        ({"gpus": 2}, 2, 3, [2, 1]),
        ({"gpus": 1, "cpus": 8}, 1, 4, [2, 2]),  # CPUs are what there is too little of
        ({"gpus": 1, "memory_gb": 50.0}, 1, 4, [2, 2]),
        ({"cpus": 4}, 2, 4, [2, 2]),  # CPUs are those of each process
        ({}, 1, 20, [10, 10]),
        ({"gpus": 4}, 4, 3, []),
        ({"gpus": 1}, 1, 1, []),
        ({"gpus": 2, "nodes": 2}, 2, 4, []),
    ],
)
def test_as_many_as_fit_go_side_by_side(
    study: Program, asked: dict[str, Any], processes: int, count: int, sizes: list[int]
) -> None:
    rows = tuple((i,) for i in range(count))
    job = JobGroup(
        "study.a", (rows[0], (), *rows[1:]), Resources(partition="gpu", **asked), processes, (), ()
    )
    plan = make_plan(study, State())
    (made,) = side_by_side(Plan(study, plan.steps, (job,), plan.estimate), site()).jobs
    assert [len(task) for task in made.arms] == sizes
    assert sorted(made.steps) == list(range(count))
    assert made.resources == job.resources and made.size == (len(sizes) or count)


def test_golden_scripts(study: Program) -> None:
    """tune trains 6 arms of 3 checkpoints each; a node has room for 4. One choice reads each two."""
    profile = site(python="/opt/env/bin/python", max_gpus=4)
    plan = packed(study, profile, "tune", "score", "best", "rlaif")
    told = emit.plan_json(plan)
    jsonschema.validate(told, SCHEMA)
    assert [[len(arm) for arm in task] for task in job_of(plan, "tune").arms] == [[3] * 3, [3] * 3]
    assert throttle(job_of(plan, "tune"), profile) == 1  # a task has a node, and that 4 GPUs
    assert not any(job.elementwise for job in plan.jobs if job.arms)
    sbatch = emit.to_sbatch(plan, profile, Store(Path("/shared/s")))
    check_golden("plan/beside.sbatch", sbatch + "\n")
    check_golden("plan/beside.text", emit.to_text(plan) + "\n")
    described = make_script(plan, job_of(plan, "tune"), profile, Store(Path("/shared/s"))).tasks
    keys = study.keys
    assert [[Path(p).stem for p in arm] for arm in described[0]] == [
        [keys[i] for i in arm] for arm in job_of(plan, "tune").arms[0]
    ]


def test_nothing_changes_where_tasks_share_nodes(study: Program) -> None:
    shared = site(partitions={"gpu": {**NODE, "whole_nodes": False}})
    plan = packed(study, shared, "tune", "score")
    assert not any(job.arms or job.whole for job in plan.jobs)
    assert plan.program.keys == study.keys and paid_gpus(plan) == {}
    # What one task reads of one task is packed alike or not at all.
    mixed = site(partitions={"cpu": {"cpus": 64}, "gpu": NODE})
    plan = packed(study, mixed, "samples", "labels")
    assert {job.name: bool(job.elementwise) for job in plan.jobs} == {
        "study.samples": False,
        "study.labels": True,
    }


def test_idle_gpus_are_paid_for(study: Program) -> None:
    plan = packed(study, site(), "tune", "rlaif")
    minutes = job_of(plan, "tune").resources.minutes, job_of(plan, "rlaif").resources.minutes
    # 2 tasks of tune, and 2 of rlaif, for of 2 arms there is room; 4 GPUs each, whoever uses them.
    assert plan.estimate.gpu_hours_at_most == round((2 * 4 * minutes[0] + 2 * 4 * minutes[1]) / 60, 2)
    assert "idle" in emit.to_text(plan)

    arms = job_of(plan, "tune").arms[0]
    hours = {i: Cost(seconds=exactly(3600), gpu_hours=exactly(1)) for i in plan.to_run()}
    hours[arms[0][0]] = Cost(seconds=exactly(7200), gpu_hours=exactly(2))  # 4 hours in all, the others 3
    hours[arms[1][0]] = Cost(unknown="nobody knows")
    billed = with_whole_nodes(Costs(hours), plan).nodes
    assert sum(billed[i].gpu_hours.likely for i in (*arms[0], *arms[2])) == pytest.approx(4 * 4 * 2 / 3)
    assert billed[arms[1][0]] == hours[arms[1][0]]
    assert paid_gpus(plan)[arms[0][0]] == pytest.approx(4 / 3)


@pytest.mark.parametrize("told", ["{whole_nodes: true}", "{whole_nodes: true, cpus: 8, gpu_type: a100}"])
def test_a_whole_node_has_to_be_described(tmp_path: Path, told: str) -> None:
    (tmp_path / "site.yaml").write_text(f"partitions:\n  gpu: {told}\n")
    with pytest.raises(UsageError, match=r"site.yaml:2:.*needs `cpus`, and `gpus` where there are any"):
        load_profile(str(tmp_path / "site.yaml"), tmp_path / "spec.yaml")
