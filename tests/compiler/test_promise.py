"""Plans on file: what they say is what is carried out, or the reader is told what moved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import UsageError
from compiler.planning import promise
from compiler.planning.plan import Plan, State, make_plan
from compiler.planning.promise import Arguments, broken, promise_json, read_promise
from compiler.program import Program, compile_spec
from compiler.site.profile import Profile
from tests.commands import alignc
from tests.compiler.specs import STUDY, node_ids
from tests.specs import LIGHT

GIVEN = Arguments("/home/me", "spec.yaml", ".alignc", ("axes.seed=[0, 1]",), None, ("+labels",), ())


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def compiled(text: str = STUDY, chosen: Any = None) -> Program:
    Path("spec.yaml").write_text(text, encoding="utf-8")
    return compile_spec("spec.yaml", **({"chosen": chosen} if chosen else {}))


def promised(plan: Plan, profile: Profile | None = None) -> Any:
    """A plan after its time on file."""
    return json.loads(json.dumps(promise_json(plan, GIVEN, profile or Profile())))


def selected(program: Program, *stages: str) -> frozenset[int]:
    return frozenset(i for i, n in enumerate(program.graph.nodes) if n.stage in stages)


def keys(program: Program, *stages: str) -> frozenset[str]:
    return frozenset(program.keys[i] for i in selected(program, *stages))


def test_a_plan_holds_while_nothing_moves() -> None:
    program = compiled()
    for state in (State(), State(sealed=keys(program, "corpus", "prompts"))):
        plan = make_plan(program, state)
        assert broken(promised(plan), make_plan(compiled(), state), Profile()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("Does feedback help?", "Well?", id="a caption"),
        pytest.param("epochs: 6", "note: six\n    epochs: 6", id="a note"),
        pytest.param("seed: [0, 1]", "seed: [0, 1]  # two", id="a comment"),
    ],
)
def test_what_changes_no_work_breaks_no_promise(old: str, new: str) -> None:
    before = promised(make_plan(compiled(), State()))
    assert broken(before, make_plan(compiled(STUDY.replace(old, new)), State()), Profile()) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        pytest.param(
            "dpo, ",
            "dpo, beta: 0.2, ",
            ["spec: beta 0.1 -> 0.2, spec.yaml:32; 2 stages after it (4 nodes)"],
            id="a field",
        ),
        pytest.param(
            "seed: [0, 1]",
            "seed: [0, 1, 2]",
            ["spec: tune[seed=2,learning_rate=0.001,epoch=2] and 25 more were not there"],
            id="a new seed",
        ),
        pytest.param(
            "seed: [0, 1]",
            "seed: [1]",
            ["spec: tune[seed=0,learning_rate=0.001,epoch=2] and 25 more were there, and now not"],
            id="a seed less",
        ),
    ],
)
def test_the_spec_moved(old: str, new: str, told: list[str]) -> None:
    before = promised(make_plan(compiled(), State()))
    assert broken(before, make_plan(compiled(STUDY.replace(old, new)), State()), Profile()) == told


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {"sealed": "base"}, "store: base was to run, and now sealed"),
        ({"sealed": "base"}, {}, "store: base was sealed, and now to run"),
        ({}, {"busy": "base"}, "store: base was to run, and now queued or running"),
        ({"busy": "labels"}, {}, "store: labels[seed=0] and 1 more were queued or running, and now to run"),
    ],
)
def test_the_store_moved(before: dict[str, str], now: dict[str, str], told: str) -> None:
    program = compiled()

    def state(words: dict[str, str]) -> State:
        busy = dict.fromkeys(keys(program, words.get("busy", "")), "in the queue as Slurm job 7")
        return State(sealed=keys(program, words.get("sealed", "")), busy=busy)

    old = promised(make_plan(program, state(before)))
    assert broken(old, make_plan(program, state(now)), Profile()) == [told]


def test_a_choice_that_was_made_meanwhile_is_news_of_the_store() -> None:
    """Keys after it become others; the work that was asked for is the same."""
    program = compiled()
    ids = dict(zip(node_ids(program), program.keys, strict=True))
    before = promised(
        make_plan(program, State(sealed=frozenset(program.keys) - keys(program, "best", "rlaif")))
    )
    fell = {ids[f"best[seed={s}]"]: (ids[f"tune[seed={s},learning_rate=0.001,epoch=2]"], "") for s in (0, 1)}
    after = compiled(chosen=lambda kind, key: fell.get(key))
    sealed = (frozenset(after.keys) | frozenset(program.keys)) - keys(after, "rlaif") - keys(program, "rlaif")
    moved = broken(before, make_plan(after, State(sealed=sealed)), Profile())
    assert moved == ["store: best[seed=0] and 1 more were to run, and now sealed"]


def test_a_rerun_is_as_good_as_a_run() -> None:
    """Whether it was made before of another recipe is no part of the promise."""
    program = compiled()
    step = make_plan(program, State())
    before = promised(step)
    again = replace(step, steps=tuple(replace(s, action="rerun") for s in step.steps))
    assert broken(before, again, Profile()) == []


def test_nodes_that_are_selected_now_and_were_not_then() -> None:
    """`--select state:failed` means others where another has failed meanwhile."""
    program = compiled()
    before = promised(make_plan(program, State(), selected=selected(program, "corpus")))
    now = make_plan(program, State(), selected=selected(program, "corpus", "prompts"))
    assert broken(before, now, Profile()) == ["store: prompts was not selected, and now to run"]
    less = make_plan(program, State(), selected=selected(program, "answers"))
    assert "store: corpus was to run, and now not selected" in broken(before, less, Profile())
    sealed = State(sealed=keys(program, "prompts"))
    same = make_plan(program, sealed, selected=selected(program, "corpus"))
    assert broken(before, same, Profile()) == [], "what was not selected is not promised"


def test_the_code_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(compiled(), State())
    before = promised(plan)
    monkeypatch.setattr(promise, "code_digest", lambda: "another")
    assert broken(before, plan, Profile()) == ["code: alignc itself is another version now"]


def test_the_profile_moved() -> None:
    plan = make_plan(compiled(), State())
    told = broken(promised(plan, Profile(partition="gpu")), plan, Profile(partition="cpu"))
    assert told == ["profile: the cluster profile was changed"]


def test_all_that_moved_is_told_at_once() -> None:
    program = compiled()
    before = promised(make_plan(program, State()), Profile(partition="gpu"))
    changed = compiled(STUDY.replace("dpo, ", "dpo, beta: 0.2, "))
    now = make_plan(changed, State(sealed=keys(changed, "corpus")))
    assert [line.partition(":")[0] for line in broken(before, now, Profile())] == ["profile", "spec", "store"]


# ---------------------------------------------------------------- the file


def test_a_plan_is_read_as_it_was_asked_for() -> None:
    Path("plan.json").write_text(json.dumps(promised(make_plan(compiled(), State()))))
    told, asked = read_promise(Path("plan.json"))
    assert asked == GIVEN and len(told["nodes"]) == 58


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "alignc.plan/2"}', '{"schema": "alignc.plan/1"}']
)
def test_what_is_no_plan(text: str) -> None:
    Path("plan.json").write_text(text)
    with pytest.raises(UsageError, match="is not a plan that can be carried out; `alignc plan SPEC --out"):
        read_promise(Path("plan.json"))
    with pytest.raises(UsageError, match="No such file"):
        read_promise(Path("nothing.json"))


def test_a_plan_is_carried_out_from_anywhere_once(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    (tmp_path / "other").mkdir()
    alignc("plan", "light.yaml", "--store", "s", "-s", "right", "--out", "part.json", cwd=tmp_path)
    assert "needs prompts, which is not selected" in alignc("run", "part.json", cwd=tmp_path, code=1)
    alignc("plan", "light.yaml", "--store", "s", "-s", "+right", "--out", "plan.json", cwd=tmp_path)
    told = alignc("run", "../plan.json", cwd=tmp_path / "other")
    assert "light: 2 nodes to run, 0 reused" in told and f"store {tmp_path}/s" in told
    again = alignc("run", "plan.json", cwd=tmp_path, code=2)
    assert "prompts and 1 more were to run, and now sealed" in again and "make another plan" in again
    for words in (["--set", "a=b"], ["-s", "right"], ["--store", "s"]):
        assert "is a plan, which says all that" in alignc("run", "plan.json", *words, cwd=tmp_path, code=2)


def test_a_plan_is_no_spec(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    alignc("plan", "light.yaml", "--out", "plan.json", cwd=tmp_path)
    for command in ("plan", "status", "check"):
        told = alignc(command, "plan.json", cwd=tmp_path, code=2)
        assert "plan.json is a plan: `run` and `submit` carry it out" in told
    assert "the name of a plan ends in .json" in alignc(
        "plan", "light.yaml", "--out", "plan", cwd=tmp_path, code=2
    )
