"""Resources and partitions from a cluster profile: rules by kind and model size, best fit, what lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compiler.errors import SpecError, UsageError
from compiler.output import emit
from compiler.planning.place import best_fit, placed, require_places, rule_for
from compiler.planning.plan import Plan, State, make_plan
from compiler.site.profile import Profile
from runtime.stage import Resources
from runtime.store import Store
from tests.compiler.specs import HEAD, compile_text

SITE = {
    "short": {"max_minutes": 60, "cpus": 16, "memory_gb": 64},
    "long": {"max_minutes": 10080, "cpus": 16, "memory_gb": 64},
    "a100": {
        "max_minutes": 1440,
        "cpus": 32,
        "memory_gb": 500,
        "gpus": 4,
        "gpu_type": "a100",
        "gpu_memory_gb": 40,
    },
    "h100": {
        "max_minutes": 2880,
        "cpus": 64,
        "memory_gb": 1000,
        "gpus": 8,
        "gpu_type": "h100",
        "gpu_memory_gb": 80,
    },
    "debug": {
        "max_minutes": 30,
        "cpus": 64,
        "memory_gb": 1000,
        "gpus": 8,
        "gpu_type": "h100",
        "gpu_memory_gb": 80,
    },
}


def profile(**told: Any) -> Profile:
    return Profile.model_validate(told)


@pytest.mark.parametrize(
    ("asked", "count", "gpu_memory_gb", "name"),
    [
        ({"minutes": 60}, 1, None, "short"),  # no GPUs for work without, the shortest limit
        ({"minutes": 61}, 1, None, "long"),
        ({"cpus": 8}, 2, None, "short"),  # CPUs are those of each process
        ({"cpus": 8, "minutes": 20}, 3, None, "a100"),  # more CPUs than a node without GPUs has
        ({"memory_gb": 600, "minutes": 30}, 1, None, "debug"),
        ({"gpus": 1}, 1, None, "a100"),  # the smallest GPU that will do
        ({"gpus": 1}, 1, 80, "h100"),
        ({"gpus": 1, "minutes": 30}, 1, 80, "debug"),
        ({"gpus": 8, "minutes": 31}, 1, None, "h100"),
        ({"gpus": 9}, 1, None, None),
        ({"gpus": 16, "nodes": 2}, 16, None, "h100"),  # a node of the job has its share
        ({"gpus": 8, "nodes": 2}, 8, None, "a100"),
        ({"gpus": 1, "minutes": 2881}, 1, None, None),
    ],
)
def test_best_fit(asked: dict[str, Any], count: int, gpu_memory_gb: float | None, name: str | None) -> None:
    assert best_fit(Resources(**asked), count, profile(partitions=SITE), gpu_memory_gb) == name


def test_what_a_partition_does_not_say_bounds_nothing_and_counts_as_large() -> None:
    site = profile(partitions={"any": {}, "gpu": {"gpu_type": "a100"}, "small": {"max_minutes": 600}})
    assert best_fit(Resources(cpus=999), 1, site) == "small"
    assert best_fit(Resources(minutes=601), 1, site) == "any"
    assert best_fit(Resources(gpus=16), 1, site) == "gpu"


def test_several_nodes_need_a_partition_that_allows_them() -> None:
    site = profile(partitions={"small": {"nodes": 1, "cpus": 8}, "large": {"nodes": 4, "cpus": 16}})
    assert best_fit(Resources(cpus=8), 1, site) == "small"
    assert best_fit(Resources(cpus=8, nodes=2), 2, site) == "large"
    assert best_fit(Resources(cpus=8, nodes=8), 8, site) is None


RULES = [
    {"gpus": 0, "cpus": 2},
    {"kind": "sft", "up_to_parameters": 8e9, "cpus": 8},
    {"kind": "sft", "up_to_parameters": 1e9, "cpus": 4},
    {"kind": "sft", "cpus": 16},
]


@pytest.mark.parametrize(
    ("kind", "size", "cpus"),
    [("sft", 1e9, 4), ("sft", 1.1e9, 8), ("sft", 9e9, 16), ("sft", None, 16), ("dpo", 1e9, 2)],
)
def test_the_tightest_rule_is_taken(kind: str, size: float | None, cpus: int) -> None:
    assert rule_for(kind, size, profile(resources=RULES)).cpus == cpus


SPEC = (
    HEAD.replace("chat: plain", "parameters: 7e9, chat: plain").replace("init: {hidden_size: 64}", "hub: a/b")
    + """\
stages:
  prompts: {kind: prepare, source: tasks}
  answers: {kind: demonstrate, prompts: prompts, teacher: weak}
  tune: {kind: sft, model: tiny, data: answers, epochs: 1, learning_rate: 1e-3, chat: plain,
         resources: {minutes: 90}}
  more: {kind: sft, model: tune, data: answers, epochs: 1, learning_rate: 1e-3, chat: plain, seed: 1}
  score: {kind: sample, model: tune, prompts: prompts}
"""
)


def planned(folder: Path, site: Profile) -> Plan:
    program = compile_text(folder, SPEC)
    with_places = placed(program, site)
    assert with_places.keys == program.keys
    return make_plan(with_places, State())


def test_a_stage_goes_before_the_profile_and_that_before_the_kind(tmp_path: Path) -> None:
    rules = [{"kind": "sft", "up_to_parameters": 8e9, "gpus": 4, "memory_gb": 200, "minutes": 600, "cpus": 8}]
    plan = planned(tmp_path, profile(partitions=SITE, resources=rules))
    asked = {step.node.stage: step.node.resources for step in plan.steps}
    assert asked["tune"] == Resources(cpus=8, gpus=4, memory_gb=200, minutes=90, partition="a100")
    assert asked["more"] == Resources(cpus=8, gpus=4, memory_gb=200, minutes=600, partition="a100")
    assert asked["score"].partition == "long" and asked["score"].minutes == 240  # the kind's own
    told = {node["stage"]: node["resources"]["partition"] for node in emit.plan_json(plan)["nodes"]}
    assert told == {"prompts": "short", "answers": "long", "tune": "a100", "more": "a100", "score": "long"}
    text = emit.to_sbatch(plan, profile(partitions=SITE), Store(tmp_path))
    assert "#SBATCH --gres=gpu:a100:4\n#SBATCH --time=90\n#SBATCH --partition=a100\n" in text


def test_a_named_partition_is_kept(tmp_path: Path) -> None:
    plan = planned(tmp_path, profile(partitions=SITE, partition="h100"))
    assert {step.node.resources.partition for step in plan.steps} == {None}
    assert "--partition=h100" in emit.to_sbatch(plan, profile(partition="h100"), Store(tmp_path))


def test_account_qos_and_constraint_are_those_of_the_partition() -> None:
    site = profile(account="lab", qos="normal", partitions={"a": {"account": "gpus", "gpu_type": "h100"}})
    there = site.at("a")
    assert (there.account, there.qos, there.gpu_type, there.partition) == ("gpus", "normal", "h100", "a")
    assert site.at(None).account == "lab" and site.at("unknown").account == "lab"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {
                "partitions": {"short": SITE["short"], "a100": SITE["a100"]},
                "resources": [{"kind": "sft", "gpus": 8}],
            },
            "tune: no partition has what it asks for (1 CPU, 4 GiB, 8 GPUs, 90 minutes): "
            "short has 60 minutes, no GPUs; a100 has 4 GPUs",
        ),
        (
            {"partitions": SITE, "resources": [{"kind": "sft", "partition": "short"}]},
            "short has 60 minutes",
        ),
        (
            {"resources": [{"kind": "sft", "up_to_parameters": 1e9, "gpus": 1}]},
            "more: the profile's resources for sft end at 1e+09 parameters, and its model has 7e+09",
        ),
    ],
)
def test_what_fits_nowhere_is_told_before_submission(tmp_path: Path, told: Any, message: str) -> None:
    site = profile(**told)
    plan = planned(tmp_path, site)
    with pytest.raises(SpecError) as error:
        require_places(plan, site)
    assert message in str(error.value) and "AC504" in str(error.value) and "spec.yaml:" in str(error.value)
    done = make_plan(plan.program, State(sealed=frozenset(plan.program.keys)))
    require_places(done, site)  # nothing is to run


def test_a_rule_for_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    from compiler.site.profile import load_profile

    (tmp_path / "site.yaml").write_text("resources:\n  - {kind: stf, gpus: 1}\n")
    with pytest.raises(UsageError, match=r"site.yaml:2:12: there is no stage kind `stf`|did you mean `sft`"):
        load_profile("site.yaml", tmp_path / "spec.yaml")
