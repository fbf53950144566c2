"""Runs that share their first epochs: who goes on from whom, and which jobs they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.output import emit
from compiler.planning.plan import Plan, State, make_plan
from compiler.program import Program
from compiler.site.profile import Profile
from runtime.store import Store
from tests.compiler.specs import STUDY, compile_text, node_ids

START = STUDY[: STUDY.index("  tune:")]
RUN = "{kind: sft, model: base, data: answers, chat: human_assistant, learning_rate: 1e-3, "
SCORE = "  score: {kind: evaluate, model: tune, prompts: prompts.validation}\n"


def trained(*stages: str) -> str:
    """A spec with these stages after `base` and `answers`: `NAME REST`."""
    lines = (f"  {stage.replace(' ', ': ' + RUN, 1)}}}\n" for stage in stages)
    return START.replace("seed: [0, 1]", "seed: [0]") + "".join(lines)


def compiled(folder: Path, *stages: str, more: str = "") -> Program:
    return compile_text(folder, trained(*stages) + more)


def follows(program: Program) -> dict[str, str]:
    """Each node that goes on from another, and that other."""
    ids = node_ids(program)
    return {node.id: ids[node.follows] for node in program.graph.nodes if node.follows is not None}


def jobs(plan: Plan) -> dict[str, list[list[str]]]:
    """The tasks of each job."""
    ids = [step.node.id for step in plan.steps]
    return {job.name.partition(".")[2]: [[ids[i] for i in task] for task in job.tasks] for job in plan.jobs}


def require_order(plan: Plan) -> None:
    """Every job comes after those that it waits for, and waits for all that its nodes need."""
    seen: dict[int, str] = {}
    for job in plan.jobs:
        assert set(job.after) <= set(seen.values()), f"{job.name} comes before one of {job.after}"
        own = {plan.steps[i].key for i in job.steps}
        needed = {plan.steps[n].key for i in job.steps for n in plan.steps[i].needs} - own
        made = {plan.steps[i].key: name for i, name in seen.items()}
        assert {made[key] for key in needed} == set(job.after), job.name
        seen |= dict.fromkeys(job.steps, job.name)


# ---------------------------------------------------------------- who goes on from whom


@pytest.mark.parametrize(
    ("stages", "wanted"),
    [
        pytest.param(
            ["tune epochs: 6, checkpoint_every: 2"],
            {"tune[epoch=4]": "tune[epoch=2]", "tune[epoch=6]": "tune[epoch=4]"},
            id="checkpoints of one run",
        ),
        pytest.param(
            ["tune sweep: {epochs: [3, 1, 2]}"],
            {"tune[epochs=2]": "tune[epochs=1]", "tune[epochs=3]": "tune[epochs=2]"},
            id="a sweep of lengths, in any order",
        ),
        pytest.param(["short epochs: 2", "long epochs: 5"], {"long": "short"}, id="a later stage"),
        pytest.param(["long epochs: 5", "short epochs: 2"], {"long": "short"}, id="an earlier stage"),
        pytest.param(
            ["one epochs: 2", "same epochs: 2", "long epochs: 5"],
            {"long": "one"},
            id="equal work counts once",
        ),
        pytest.param(["a epochs: 2", "b epochs: 5, batch_size: 4"], {}, id="another trajectory"),
        pytest.param(
            ["a epochs: 2, schedule: cosine", "b epochs: 5, schedule: cosine"], {}, id="another horizon"
        ),
        pytest.param(
            ["a epochs: 2, schedule: cosine, horizon: 5", "b epochs: 5, schedule: cosine"],
            {"b": "a"},
            id="a horizon written out",
        ),
    ],
)
def test_a_longer_run_follows_the_next_shorter_one(
    tmp_path: Path, stages: list[str], wanted: dict[str, str]
) -> None:
    program = compiled(tmp_path, *stages)
    assert follows(program) == wanted
    assert all(need < i for i, node in enumerate(program.graph.nodes) for need in node.needs)
    require_order(make_plan(program, State()))


def test_nodes_keep_their_names_and_inputs_where_the_order_changes(tmp_path: Path) -> None:
    program = compiled(tmp_path, "long epochs: 5", "short epochs: 2")
    ids = node_ids(program)
    assert ids[-2:] == ["short", "long"]
    assert {stage: [ids[i] for i in at] for stage, at in program.graph.by_stage.items()}["long"] == ["long"]
    assert [ids[i] for i in program.graph.nodes[-1].reads] == ["base", "answers"]


# ---------------------------------------------------------------- jobs


def test_the_legs_of_a_run_are_one_task(tmp_path: Path) -> None:
    plan = make_plan(compiled(tmp_path, "tune epochs: 6, checkpoint_every: 2, seed: '${seed}'"), State())
    legs = [f"tune[seed=0,epoch={n}]" for n in (2, 4, 6)]
    assert jobs(plan)["tune"] == [legs]
    assert legs[2] in (text := emit.to_sbatch(plan, Profile(), Store(tmp_path)))
    assert f"#   0: {', '.join(legs)}\n" in text


@pytest.mark.parametrize(
    ("segments", "wanted"),
    [
        (1, [[2, 4, 6]]),
        (2, [[2, 4], [6]]),
        (3, [[2], [4], [6]]),
    ],
)
def test_segments_are_jobs_in_a_row(tmp_path: Path, segments: int, wanted: list[list[int]]) -> None:
    """What reads an early checkpoint does not wait for the last."""
    stage = f"tune epochs: 6, checkpoint_every: 2, segments: {segments}"
    plan = make_plan(compiled(tmp_path, stage, more=SCORE), State())
    require_order(plan)
    parts = [f".{n}" if segments > 1 else "" for n in range(1, segments + 1)]
    found = jobs(plan)
    assert [found[f"tune{p}"] for p in parts] == [[[f"tune[epoch={n}]" for n in legs]] for legs in wanted]
    after = {job.name: job.after for job in plan.jobs}
    for number, part in enumerate(parts):
        assert ("study.tune" + parts[number - 1] in after[f"study.tune{part}"]) is (number > 0)
        assert found[f"score{part}"] == [[f"score[epoch={n}]"] for n in wanted[number]]
        assert after[f"study.score~samples{part}"] == (f"study.tune{part}", "study.prompts")


def test_segments_of_two_stages_in_a_row(tmp_path: Path) -> None:
    """The scores of the second stage's checkpoints wait for their own segment only."""
    program = compile_text(
        tmp_path,
        trained("tune epochs: 4, checkpoint_every: 1, segments: 2")
        .replace("model: base", "model: {stage: base, at: {epoch: 2}}")
        .replace("epochs: 1,", "epochs: 2, checkpoint_every: 1, segments: 2,", 1)
        + SCORE,
    )
    plan = make_plan(program, State())
    require_order(plan)
    assert {job.name.partition(".")[2]: len(job.steps) for job in plan.jobs if "score~" in job.name} == {
        "score~samples.1": 2,
        "score~samples.2": 2,
    }


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param(["pre epochs: 1", "tune epochs: 4, checkpoint_every: 1"], id="the shorter one before"),
        pytest.param(["pre epochs: 2", "tune epochs: 4, checkpoint_every: 1"], id="equal to the second leg"),
        pytest.param(["pre epochs: 5", "tune epochs: 4, checkpoint_every: 1"], id="the longer one before"),
        pytest.param(["tune epochs: 4, checkpoint_every: 2", "post epochs: 3"], id="in between, after"),
        pytest.param(
            ["tune epochs: 4, checkpoint_every: 2, segments: 2", "post epochs: 3"], id="between two segments"
        ),
    ],
)
def test_jobs_of_stages_that_share_runs_wait_for_each_other_in_order(
    tmp_path: Path, stages: list[str]
) -> None:
    plan = make_plan(compiled(tmp_path, *stages, more=SCORE), State())
    require_order(plan)
    require_order(make_plan(plan.program, State(), max_array=1))


def test_runs_of_one_trajectory_that_ask_for_other_resources(tmp_path: Path) -> None:
    """They cannot be one array, and each waits for the shorter one, there and back again."""
    text = trained("tune epochs: '${run.epochs}', resources: {minutes: '${run.minutes}'}").replace(
        "  seed: [0]",
        "  run: {a: {epochs: 1, minutes: 9}, b: {epochs: 2, minutes: 5}, c: {epochs: 3, minutes: 9}}",
    )
    plan = make_plan(compile_text(tmp_path, text), State())
    require_order(plan)
    found = jobs(plan)
    assert [found[f"tune.{n}"] for n in (1, 2, 3)] == [
        [["tune[run=a]"]],
        [["tune[run=b]"]],
        [["tune[run=c]"]],
    ]


def test_what_is_sealed_or_queued_is_not_waited_for_in_the_plan(tmp_path: Path) -> None:
    program = compiled(tmp_path, "tune epochs: 6, checkpoint_every: 2, segments: 3")
    keys = dict(zip(node_ids(program), program.keys, strict=True))
    first = {"corpus", "prompts", "base", "answers", "tune[epoch=2]"}
    queued = keys["tune[epoch=4]"]
    state = State(
        sealed=frozenset(k for id_, k in keys.items() if id_ in first),
        busy={queued: "in the queue as Slurm job 7"},
        slurm_jobs={queued: "7"},
    )
    tune = next(j for j in make_plan(program, state, on_slurm=True).jobs if j.name == "study.tune")
    assert (tune.after, tune.after_slurm) == ((), ("7",))


def test_a_run_goes_on_from_where_an_earlier_one_stopped(tmp_path: Path) -> None:
    program = compiled(tmp_path, "tune epochs: 6, checkpoint_every: 2")
    keys = dict(zip(node_ids(program), program.keys, strict=True))
    trajectory = next(i.trajectory for i in program.identities if i.key == keys["tune[epoch=6]"])
    sealed = frozenset(k for id_, k in keys.items() if id_ != "tune[epoch=6]")

    def why(reached: float) -> str:
        steps = make_plan(program, State(sealed=sealed, reached={trajectory: reached})).steps
        return next(s.why for s in steps if s.node.id == "tune[epoch=6]")

    assert why(4) == "not made yet; goes on from epoch 4"
    assert why(6) == "not made yet; goes on from epoch 6"
    assert why(7) == "not made yet", "a run that went further is of no use"
    assert why(0) == "not made yet"
