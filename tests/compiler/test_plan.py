"""Plans: actions, reasons, jobs, and every form in which a plan is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.output import emit
from compiler.planning.plan import JobGroup, Plan, State, make_plan
from compiler.program import Program
from compiler.site.profile import Profile
from compiler.slurm.script import script_text, throttle
from runtime.stage import Resources
from runtime.store import Store
from tests.compiler.specs import HEAD, STUDY, compile_text
from tests.golden import check_golden
from tests.specs import LIGHT

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "plan.schema.json").read_text())


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    from compiler.program import compile_spec

    return compile_spec("study.yaml")


def actions(plan: Plan) -> dict[str, str]:
    return {step.node.id: step.action for step in plan.steps}


def keys_of(program: Program, *stages: str) -> frozenset[str]:
    return frozenset(k for n, k in zip(program.graph.nodes, program.keys, strict=True) if n.stage in stages)


def test_an_empty_store_runs_everything(study: Program) -> None:
    plan = make_plan(study, State())
    assert set(actions(plan).values()) == {"run"}
    assert plan.estimate.run == len(study.graph.nodes)


def test_what_is_sealed_is_reused_and_a_full_store_runs_nothing(study: Program) -> None:
    plan = make_plan(study, State(sealed=keys_of(study, "prompts", "corpus")))
    assert actions(plan)["prompts"] == "reuse" and actions(plan)["base"] == "run"
    done = make_plan(study, State(sealed=frozenset(study.keys)))
    assert done.jobs == () and set(actions(done).values()) == {"reuse"}


def test_a_missing_artifact_is_made_again_and_nothing_else(study: Program) -> None:
    missing = next(iter(keys_of(study, "labels")))
    plan = make_plan(study, State(sealed=frozenset(study.keys) - {missing}))
    assert [i for i, a in actions(plan).items() if a == "run"] == ["labels[seed=0]"] or plan.estimate.run == 1


def test_queued_nodes_are_waited_for(study: Program) -> None:
    (base,) = keys_of(study, "base")
    state = State(busy={base: "in the queue as Slurm job 7"}, slurm_jobs={base: "7"})
    plan = make_plan(study, state, on_slurm=True)
    assert actions(plan)["base"] == "wait"
    tune = next(j for j in plan.jobs if j.name == "study.tune")
    assert tune.after == ("study.answers",) and tune.after_slurm == ("7",)


def test_slurm_cannot_wait_for_a_process(study: Program) -> None:
    (base,) = keys_of(study, "base")
    plan = make_plan(study, State(busy={base: "at work on n1, process 3"}), on_slurm=True)
    assert actions(plan)["tune[seed=0,learning_rate=0.001,epoch=2]"] == "blocked"
    assert actions(plan)["best[seed=0]"] == "blocked"
    assert actions(plan)["answers"] == "run"
    assert set(actions(make_plan(study, State(busy={base: "at work"}))).values()) == {"run", "wait"}


def test_failures_are_tried_again_and_say_why(study: Program) -> None:
    (base,) = keys_of(study, "base")
    step = next(s for s in make_plan(study, State(failed={base: "out of disk"})).steps if s.node.id == "base")
    assert (step.action, step.why) == ("run", "its last try failed: out of disk")


def test_equal_work_is_submitted_once(tmp_path: Path) -> None:
    text = HEAD + "stages: {a: {kind: prepare, source: tasks}, b: {kind: prepare, source: tasks}}"
    plan = make_plan(compile_text(tmp_path, text), State())
    assert [len(j.steps) for j in plan.jobs] == [1]
    assert plan.steps[1].why == "the same work as a, done once"


def test_arrays_are_cut_at_the_sites_limit(study: Program) -> None:
    plan = make_plan(study, State(), max_array=5)
    names = {j.name: len(j.steps) for j in plan.jobs if j.name.startswith("study.score.")}
    assert names == {"study.score.1": 5, "study.score.2": 5, "study.score.3": 2}
    best = next(j for j in plan.jobs if j.name == "study.best")
    assert {"study.score.1", "study.score.2", "study.score.3"} <= set(best.after)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # which nothing changes
def test_a_task_of_an_elementwise_job_needs_but_that_of_its_index(
    data: st.DataObject, study: Program
) -> None:
    made = data.draw(st.sets(st.sampled_from(study.keys)))
    plan = make_plan(study, State(sealed=frozenset(made)), max_array=data.draw(st.integers(2, 20)))
    tasks = {
        job.name: {study.keys[i]: n for n, task in enumerate(job.tasks) for i in task} for job in plan.jobs
    }
    for job in plan.jobs:
        for index, task in enumerate(job.tasks):
            needed = {study.keys[n] for i in task for n in plan.steps[i].needs}
            for other in job.elementwise if task else ():
                assert {tasks[other][key] for key in needed & tasks[other].keys()} == {index}
        assert set(job.elementwise) <= set(job.after) and (job.array or not job.elementwise)


def test_elementwise_arrays_have_gaps_and_what_waits_for_nothing_is_apart(tmp_path: Path) -> None:
    """wrong[seed=1] is there, so its labels wait for nobody; those of seed 2 are there too."""
    program = compile_text(tmp_path, LIGHT.replace("[0, 1]", "[0, 1, 2, 3]"))
    keys = {node.id: key for node, key in zip(program.graph.nodes, program.keys, strict=True)}
    made = ("prompts", "right", "wrong[seed=1]", "labels[seed=2]")
    plan = make_plan(program, State(sealed=frozenset(keys[id_] for id_ in made)))
    ids = [node.id for node in program.graph.nodes]
    jobs = {job.name.removeprefix("light."): job for job in plan.jobs}
    told = {
        name: ([[ids[i] for i in task] for task in job.tasks], job.elementwise) for name, job in jobs.items()
    }
    assert told["wrong"] == ([["wrong[seed=0]"], ["wrong[seed=2]"], ["wrong[seed=3]"]], ())
    assert told["labels.2"] == ([["labels[seed=1]"]], ()) and jobs["labels.2"].after == ()
    assert told["labels.1"] == ([["labels[seed=0]"], [], ["labels[seed=3]"]], ("light.wrong",))
    text = script_text(jobs["labels.1"], Profile(), token="t", logs="l", work="w", store="s")
    assert "#SBATCH --array=0,2\n" in text


def test_jobs_come_after_the_jobs_they_read(study: Program) -> None:
    seen: set[str] = set()
    for job in make_plan(study, State()).jobs:
        assert set(job.after) <= seen
        seen.add(job.name)


@pytest.mark.parametrize("form", ["text", "dot", "mermaid"])
def test_golden_drawings(study: Program, form: str) -> None:
    plan = make_plan(study, State(sealed=keys_of(study, "prompts", "corpus")))
    check_golden(f"plan/study.{form}", emit.DRAWINGS[form](plan) + "\n")


def test_json_is_as_its_published_schema_says(study: Program) -> None:
    text = emit.to_json(make_plan(study, State(sealed=keys_of(study, "prompts"))))
    told = json.loads(text)
    jsonschema.validate(told, SCHEMA)
    check_golden("plan/study.json", text + "\n")
    ids = {node["id"] for node in told["nodes"]}
    assert all(set(node["needs"]) <= ids for node in told["nodes"])


PROFILE = Profile.model_validate(
    {
        "partition": "gpu",
        "account": "me",
        "gpu_type": "a100",
        "setup": ["module load python"],
        "environment": {"HF_HOME": "/scratch/my files"},
        "python": "/opt/env/bin/python",
        "parallel_tasks": 2,
        "options": ["--requeue"],
    }
)


def test_golden_sbatch(study: Program) -> None:
    sealed = frozenset(study.keys) - keys_of(study, "tune", "best", "rlaif")
    plan = make_plan(study, State(sealed=sealed))
    check_golden("plan/study.sbatch", emit.to_sbatch(plan, PROFILE, Store(Path("/shared/a store"))) + "\n")


def test_a_job_is_told_the_files_of_keys(tmp_path: Path) -> None:
    plan = make_plan(compile_text(tmp_path, HEAD + "stages: {a: {kind: prepare, source: tasks}}"), State())
    site = Profile.model_validate({"keys": {"OPENAI_API_KEY": "~/my keys/openai"}})
    assert "\nexport OPENAI_API_KEY_FILE='~/my keys/openai'\n" in emit.to_sbatch(plan, site, Store(tmp_path))


def test_gpus_are_asked_for(tmp_path: Path) -> None:
    text = HEAD + "stages: {a: {kind: prepare, source: tasks, resources: {gpus: 2}}}"
    plan = make_plan(compile_text(tmp_path, text), State())
    assert "#SBATCH --gres=gpu:a100:2\n" in emit.to_sbatch(plan, PROFILE, Store(tmp_path))
    assert plan.estimate.gpu_hours_at_most == 2.0
    any_type = replace_type(PROFILE)
    assert "#SBATCH --gres=gpu:2\n" in emit.to_sbatch(plan, any_type, Store(tmp_path))


def test_a_training_over_several_nodes(tmp_path: Path) -> None:
    """GPUs and processes are those of the job, shared out evenly; memory and CPUs are not."""
    text = HEAD + (
        "axes: {nodes: [1, 2, 4]}\nstages:\n"
        "  prompts: {kind: prepare, source: tasks}\n"
        "  data: {kind: demonstrate, prompts: prompts, teacher: weak}\n"
        "  tune: {kind: sft, model: tiny, data: data, epochs: 1, learning_rate: 1e-3, "
        "max_length: '50${nodes}', parallel: {processes: 8}, "
        "resources: {nodes: '${nodes}', gpus: 8, cpus: 3, memory_gb: 2, minutes: 60}}\n"
    )
    plan = make_plan(compile_text(tmp_path, text), State())
    asked = [script_text(job, PROFILE, token="t", logs="l", store="s", work="w") for job in plan.jobs[-3:]]
    wanted = ("--nodes", "--ntasks", "--cpus-per-task", "--mem", "--gres")
    told = [[line[8:] for line in text.splitlines() if line[8:].startswith(wanted)] for text in asked]
    assert told == [
        ["--nodes=1", "--ntasks=1", "--cpus-per-task=24", "--mem=2048M", "--gres=gpu:a100:8"],
        ["--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=3", "--mem=2048M", "--gres=gpu:a100:4"],
        ["--nodes=4", "--ntasks-per-node=2", "--cpus-per-task=3", "--mem=2048M", "--gres=gpu:a100:2"],
    ]
    assert plan.estimate.gpu_hours_at_most == 3 * 8.0
    assert throttle(plan.jobs[-1], Profile.model_validate({"max_gpus": 16})) == 2


@pytest.mark.parametrize(
    ("told", "gpus", "most"),
    [
        ({}, 2, None),
        ({"parallel_tasks": 5}, 0, 5),
        ({"max_gpus": 8}, 2, 4),
        ({"max_gpus": 8}, 0, None),
        ({"max_gpus": 8, "parallel_tasks": 3}, 2, 3),
        ({"max_gpus": 1}, 2, 1),
    ],
)
def test_tasks_at_once(told: dict[str, int], gpus: int, most: int | None) -> None:
    job = JobGroup("a", ((0,), (1,)), Resources(gpus=gpus), 1, (), ())
    profile = Profile.model_validate(told)
    assert throttle(job, profile) == most
    line = script_text(job, profile, token="t", logs="l", work="w", store="s").splitlines()[3]
    assert line == "#SBATCH --array=0-1" + (f"%{most}" if most else "")


def test_ten_thousand_nodes_take_at_most_twenty_calls(tmp_path: Path) -> None:
    text = HEAD + (
        f"axes: {{seed: {list(range(5000))}}}\nstages:\n"
        "  prompts: {kind: prepare, source: tasks, split: {test: 50%}}\n"
        "  tries: {kind: demonstrate, prompts: prompts.test, teacher: weak, seed: '${seed}'}\n"
        "  score: {kind: evaluate, completions: tries}\n"
    )
    plan = make_plan(compile_text(tmp_path, text), State(), max_array=1001)  # Slurm's default
    assert (len(plan.steps), len(plan.jobs)) == (10001, 11)


def replace_type(profile: Profile) -> Profile:
    return profile.model_copy(update={"gpu_type": None})


def test_planning_is_a_pure_function(study: Program) -> None:
    state = State(sealed=keys_of(study, "prompts"))
    assert make_plan(study, state) == make_plan(study, replace(state))
