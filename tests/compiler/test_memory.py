"""What runs again and why: the plan of an experiment that has run before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from compiler.output import emit
from compiler.planning.memory import remember, remembered
from compiler.planning.plan import Plan, State, make_plan
from compiler.program import Program, compile_spec
from runtime.store import Store
from tests.commands import alignc
from tests.compiler.specs import STUDY, node_ids
from tests.compiler.test_plan import SCHEMA
from tests.specs import LIGHT


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def compiled(text: str = STUDY, **more: Any) -> Program:
    Path("study.yaml").write_text(text, encoding="utf-8")
    return compile_spec("study.yaml", **more)


def keep(program: Program, store: Store) -> None:
    remember(store, "study", zip(program.graph.nodes, program.identities, strict=True))


def planned(store: Store, text: str, sealed: frozenset[str], **state: Any) -> Plan:
    past = remembered(store, "study")
    return make_plan(compiled(text), State(sealed=sealed, **state), past=past)


def actions(plan: Plan) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for step in plan.steps:
        found.setdefault(step.node.stage, set()).add(step.action)
    return found


@pytest.fixture
def done(store: Store) -> frozenset[str]:
    """The study after a whole run, remembered."""
    program = compiled()
    keep(program, store)
    return frozenset(program.keys)


def test_a_change_re_runs_what_it_reaches(store: Store, done: frozenset[str]) -> None:
    plan = planned(store, STUDY.replace("dpo, ", "dpo, beta: 0.2, "), done)
    again = {stage for stage, found in actions(plan).items() if found == {"rerun"}}
    assert again == {"rlaif", "rlaif_test~samples", "rlaif_test"}
    assert {s.why for s in plan.steps if s.action == "rerun"} == {"beta 0.1 -> 0.2, study.yaml:32"}
    assert (plan.estimate.run, plan.estimate.rerun, plan.estimate.reuse) == (6, 6, 52)
    (effect,) = plan.effects
    assert str(effect) == "beta 0.1 -> 0.2, study.yaml:32; 2 stages after it (4 nodes)"


def test_a_new_point_is_run_for_the_first_time(store: Store, done: frozenset[str]) -> None:
    plan = planned(store, STUDY.replace("seed: [0, 1]", "seed: [0, 1, 2]"), done)
    assert {s.action for s in plan.steps if s.node.shown_axes().get("seed") == 2} == {"run"}
    assert {s.action for s in plan.steps if s.node.shown_axes().get("seed") != 2} == {"reuse"}
    assert plan.effects == ()


@pytest.mark.parametrize(
    ("new", "stage", "why"),
    [
        pytest.param(
            "[1e-3, 5e-4, 3e-3]", "samples", "unless best falls as before: learning_rate ", id="an arm"
        ),
        pytest.param("[3e-3, 2e-3]", "samples", "learning_rate ", id="other arms"),
        pytest.param("[1e-3]", "samples", "unless best falls as before: learning_rate ", id="an arm less"),
    ],
)
def test_a_choice_may_spare_what_follows(
    store: Store, done: frozenset[str], new: str, stage: str, why: str
) -> None:
    plan = planned(store, STUDY.replace("[1e-3, 5e-4]", new), done)
    (step, _) = (s for s in plan.steps if s.node.stage == stage)
    assert step.action == "rerun" and step.why.startswith(why)
    assert (step.after_choice == "best") == why.startswith("unless")


def test_what_was_never_made_does_not_run_again(store: Store, done: frozenset[str]) -> None:
    plan = planned(store, STUDY.replace("dpo, ", "dpo, beta: 0.2, "), frozenset())
    assert {s.action for s in plan.steps} == {"run"} and plan.effects == ()


def test_what_was_made_under_a_real_key_counts(store: Store) -> None:
    """After a choice: by the job that found it out, or known when it was remembered."""
    program = compiled()
    ids = dict(zip(node_ids(program), program.keys, strict=True))
    fell = {ids[f"best[seed={s}]"]: (ids[f"tune[seed={s},learning_rate=0.001,epoch=2]"], "") for s in (0, 1)}
    keep(program, store)
    asked = frozenset(program.keys)
    new = STUDY.replace("[1e-3, 5e-4]", "[1e-3, 5e-4, 3e-3]")
    first = frozenset(k for id_, k in ids.items() if id_.partition("[")[0] not in ("samples", "labels"))
    assert actions(planned(store, new, first))["samples"] == {"run"}
    assert actions(planned(store, new, first, realised=asked))["samples"] == {"rerun"}
    known = compiled(chosen=lambda kind, key: fell.get(key))
    keep(known, store)
    assert actions(planned(store, new, frozenset(known.keys)))["samples"] == {"rerun"}


def test_a_stopped_try_is_no_failure(store: Store) -> None:
    program = compiled()
    base = next(i for i in program.identities if i.recipe["kind"] == "sft")
    sealed = frozenset(program.keys[: program.keys.index(base.key)])
    stopped = {base.key: "stopped by SIGTERM"}
    for reached, why in ((0.0, "stopped by SIGTERM"), (1.0, "stopped by SIGTERM; goes on from epoch 1")):
        state = State(sealed=sealed, stopped=stopped, reached={base.trajectory: reached})
        assert next(s.why for s in make_plan(program, state).steps if s.key == base.key) == why


def test_json_tells_reruns_and_their_causes(store: Store, done: frozenset[str]) -> None:
    plan = planned(store, STUDY.replace("[1e-3, 5e-4]", "[1e-3, 5e-4, 3e-3]"), done)
    told = json.loads(emit.to_json(plan))
    jsonschema.validate(told, SCHEMA)
    assert told["estimate"]["rerun"] == 16 and told["estimate"]["run"] == 16 + 18
    node = next(n for n in told["nodes"] if n["id"] == "labels[seed=0]")
    change = "learning_rate [0.001, 0.0005] -> [0.001, 0.0005, 0.003]"
    assert (node["action"], node["why"]) == (
        "rerun",
        f"unless best falls as before: {change}, study.yaml:27",
    )
    (effect,) = told["changes"]
    assert effect["what"] == change and effect["place"] == "study.yaml:27"
    assert effect["nodes"] == ["best[seed=0]", "best[seed=1]"] and len(effect["after"]) == 14


def test_other_nodes_stay_remembered_and_a_broken_file_is_nothing(store: Store) -> None:
    program = compiled()
    both = list(zip(program.graph.nodes, program.identities, strict=True))
    remember(store, "study", both[:2])
    remember(store, "study", both[1:3])
    assert list(remembered(store, "study")) == sorted(node.id for node, _ in both[:3])
    (store.experiment("study") / "last.json").write_text("{")
    assert remembered(store, "study") == {} == remembered(store, "another")


def test_the_command_tells_what_has_changed(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    alignc("run", "light.yaml", "--store", "s", cwd=tmp_path)
    text = alignc("plan", "light.yaml", "--store", "s", "--set", "stages.wrong.max_tokens=8", cwd=tmp_path)
    line = "max_tokens 2048 -> 8, --set stages.wrong.max_tokens:1"
    assert f"~ wrong [seed=2]   demonstrate, 2 nodes  {line}" in text
    assert f"changed since the last run:\n  {line}; 2 stages after it (4 nodes)" in text
    assert "0 to run (+), 6 to run again (~), 2 reused (=)" in text
