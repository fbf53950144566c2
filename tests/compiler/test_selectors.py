"""Selectors: what each one chooses, what is refused and how, and the laws of sets."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import UsageError
from compiler.planning.plan import State, make_plan
from compiler.planning.selectors import (
    ALL,
    Atom,
    Condition,
    Method,
    Origin,
    Selection,
    Term,
    World,
    choose,
    evaluate,
    parse,
)
from tests.compiler.specs import STUDY, compile_text

NOWHERE = Origin("", 0, 0)


@cache
def world() -> World:
    """The study with `base` sealed, and one tuning that failed."""
    with TemporaryDirectory() as folder:
        program = compile_text(Path(folder), STUDY.replace("checkpoint_every: 2", "note: one checkpoint"))
    words = {"base": "done", "tune[seed=1,learning_rate=0.001]": "failed"}
    return World(program, lambda: [frozenset({words.get(n.id, "waiting")}) for n in program.graph.nodes])


def chosen(*select: str, exclude: tuple[str, ...] = ()) -> list[str]:
    return [world().nodes[i].id for i in sorted(choose(world(), select, exclude))]


T0, T1 = "tune[seed=0,learning_rate=0.001]", "tune[seed=0,learning_rate=0.0005]"
T2, T3 = "tune[seed=1,learning_rate=0.001]", "tune[seed=1,learning_rate=0.0005]"
LAST = ["rlaif_test~samples[seed=0]", "rlaif_test[seed=0]"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("base", ["base"]),
        ("stage:base", ["base"]),
        (T0, [T0]),
        ("tune", [T0, T1, T2, T3]),
        ("tune[seed=0]", [T0, T1]),
        ("tune[seed=0|1, learning_rate=1e-3]", [T0, T2]),
        ("t?n*[learning_rate<0.001]", [T1, T3]),
        ("tune,learning_rate<=0.0005", [T1, T3]),
        ("tune,learning_rate>=1e-3", [T0, T2]),
        ("tune,seed!=0", [T2, T3]),
        ("axis:seed=0,tune", [T0, T1]),
        ("tune , seed=0 , learning_rate=0.001", [T0]),
        ("base corpus", ["corpus", "base"]),
        ("kind:dpo", ["rlaif[seed=0]", "rlaif[seed=1]"]),
        ("kind:dpo|select,seed=1", ["best[seed=1]", "rlaif[seed=1]"]),
        ("state:failed", [T2]),
        ("state:failed|done", ["base", T2]),
        ("table:main,seed=0", ["sft_test[seed=0]", "rlaif_test[seed=0]"]),
        ("+base", ["corpus", "base"]),
        ("1+best[seed=0],kind:sft", [T0, T1]),
        ("base+1", ["base", T0, T1, T2, T3]),
        ("rlaif[seed=0]+", ["rlaif[seed=0]", *LAST]),
        ("1+rlaif[seed=0]+1", ["best[seed=0]", "labels[seed=0]", "rlaif[seed=0]", LAST[0]]),
        ("*_test[seed=0]", ["sft_test[seed=0]", "rlaif_test[seed=0]"]),
        ("rlaif_test~samples[seed=0]", ["rlaif_test~samples[seed=0]"]),
        ("tune,!seed=0", [T2, T3]),
        ("!tune+", ["corpus", "prompts", "base", "answers", "others", "reference"]),
        ("tune[seed='0']", [T0, T1]),
    ],
)
def test_what_is_chosen(text: str, wanted: list[str]) -> None:
    assert sorted(chosen(text)) == sorted(wanted)


def test_around_takes_in_what_the_readers_need() -> None:
    around = chosen("@rlaif[seed=0]")
    assert set(LAST) | {"reference", "corpus", T0, T1} <= set(around)
    assert T2 not in around and "sft_test[seed=0]" not in around


def test_options_unite_and_exclude() -> None:
    assert chosen("base", "corpus") == ["corpus", "base"]
    assert chosen("tune", exclude=("seed=0",)) == [T2, T3]
    assert set(chosen()) - set(chosen(exclude=("tune", "base"))) == {T0, T1, T2, T3, "base"}


REFUSED = """\
tunee
there is no stage `tunee`; did you mean `tune`?
^^^^^
---
base +tunee+ corpus
there is no stage `tunee`; did you mean `tune`?
      ^^^^^
---
dpo
there is no stage `dpo`; `kind:dpo` selects by kind
^^^
---
seed
there is no stage `seed`; `seed=VALUE` selects by axis
^^^^
---
kind:sfft
there is no kind `sfft`; did you mean `sft`?
     ^^^^
---
state:faild
there is no state `faild`; did you mean `failed`?
      ^^^^^
---
table:man
there is no table `man`; did you mean `main`?
      ^^^
---
sede=0
there is no axis `sede` here; did you mean `seed`?
^^^^^^
---
tune[seed=0,learning_rate=0.002]
axis `learning_rate` has no value `0.002` here; did you mean `0.001`?
            ^^^^^^^^^^^^^^^^^^^
---
best[learning_rate=0.001]
there is no axis `learning_rate` here; known: seed
     ^^^^^^^^^^^^^^^^^^^
---
stat:failed
there is no way to select by `stat`; did you mean `state`?
^^^^^
---
tune[seed=0
this bracket is not closed
    ^^^^^^^
---
tune]
`]` is not expected here
    ^
---
@tune+
`@` already takes in all that follows
     ^
---
0+tune
no steps are no operator: leave it out
^^
---
tune,
the name of a stage, an axis or a node is expected here
     ^
---
seed<0|1
`<` takes one number
^^^^^^^^
---
seed=
a value is expected here
     ^"""


@pytest.mark.parametrize("case", REFUSED.split("\n---\n"), ids=lambda c: c.splitlines()[0])
def test_what_is_refused(case: str) -> None:
    text, message, caret = case.split("\n")
    with pytest.raises(UsageError) as error:
        evaluate(parse(text), world())
    assert str(error.value) == f"{message}\n    {text}\n    {caret}"


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(UsageError, match="this one is empty"):
        parse("  ")


def test_states_are_asked_only_where_one_is_named() -> None:
    def fail() -> list[frozenset[str]]:
        raise AssertionError

    assert len(choose(World(world().program, fail), ["tune"])) == 4


# ---------------------------------------------------------------- laws

names = st.sampled_from(["tune", "t*", "best", "score", "*", "labels", "rlaif_test~samples"])
values = st.one_of(st.sampled_from(["0", "1", "0.001"]), st.text(min_size=1, max_size=8))


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    axis = draw(st.sampled_from(["seed", "learning_rate", "a-b"]))
    if draw(st.booleans()):
        return Condition(axis, draw(st.sampled_from(["<", "<=", ">", ">="])), ("0.001",), NOWHERE)
    many = tuple(draw(st.lists(values, min_size=1, max_size=3)))
    return Condition(axis, draw(st.sampled_from(["=", "!="])), many, NOWHERE)


@st.composite
def atoms(draw: st.DrawFn) -> Atom:
    method: Method = draw(st.sampled_from(["stage", "axis", "kind", "table", "state"]))
    if method == "axis":
        return Atom(method, (), (draw(conditions()),), NOWHERE)
    if method == "stage":
        return Atom(method, (draw(names),), tuple(draw(st.lists(conditions(), max_size=2))), NOWHERE)
    return Atom(method, tuple(draw(st.lists(names, min_size=1, max_size=2))), (), NOWHERE)


steps = st.sampled_from([0, 1, 12, ALL])
plain = st.builds(Term, atoms(), steps, steps, st.just(False), st.booleans())
around = st.builds(Term, atoms(), around=st.just(True), without=st.booleans())
terms = st.lists(plain | around, min_size=1, max_size=3).map(tuple)
selections = st.lists(terms, min_size=1, max_size=3).map(lambda found: Selection(tuple(found)))


@given(selections)
def test_what_is_printed_is_read_as_the_same(selection: Selection) -> None:
    assert parse(str(selection)) == selection


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        evaluate(parse(text), world())
    except UsageError as error:
        assert text in str(error)


TEXTS = [
    "tune", "seed=0", "kind:evaluate", "+best", "labels+", "@rlaif[seed=1]", "2+samples",
    "state:done", "!score", "table:main",
]  # fmt: skip
some = st.sampled_from(TEXTS)


def of(text: str) -> frozenset[int]:
    return evaluate(parse(text), world())


@given(some, some, some)
def test_laws_of_sets(a: str, b: str, c: str) -> None:
    everything = of("*")
    assert of(f"{a} {b}") == of(f"{b} {a}") == of(a) | of(b) == choose(world(), [a, b])
    assert of(f"{a},{b}") == of(f"{b},{a}") == of(a) & of(b)
    assert choose(world(), [a], [b]) == of(a) - of(b)
    assert choose(world(), [], [b]) == everything - of(b)
    assert of(f"{a} {a}") == of(f"{a},{a}") == of(a)
    assert of(f"{a},{b} {a},{c}") == of(a) & (of(b) | of(c))


@given(st.sampled_from(world().nodes), st.integers(1, 5))
def test_laws_of_the_graph(node: object, steps: int) -> None:
    id_ = node.id  # type: ignore[attr-defined]
    x, before, after, around = of(id_), of(f"+{id_}"), of(f"{id_}+"), of(f"@{id_}")
    assert len(x) == 1 and before & after == x
    assert before | after <= around and of(f"+{id_}+") == before | after
    assert x <= of(f"{steps}+{id_}") <= of(f"{steps + 1}+{id_}") <= before == of(f"50+{id_}")
    needs = world().needs
    assert all(set(needs[i]) <= before for i in before) and all(set(needs[i]) <= around for i in around)
    assert of(f"!{id_}") == of("*") - x


# ---------------------------------------------------------------- plans of a part


def planned(select: str, *sealed: str, **options: object) -> dict[str, tuple[str, str]]:
    program = world().program
    keys = frozenset(k for n, k in zip(program.graph.nodes, program.keys, strict=True) if n.stage in sealed)
    plan = make_plan(program, State(sealed=keys), selected=of(select), **options)  # type: ignore[arg-type]
    assert {plan.steps[i].node.id for i in plan.to_run()} <= {s.node.id for s in plan.shown()}
    assert plan.estimate.nodes == len(plan.shown())
    return {s.node.id: (s.action, s.why) for s in plan.shown()}


def test_nodes_whose_needs_are_neither_sealed_nor_selected_are_blocked() -> None:
    assert planned("answers labels[seed=0]+1", "others") == {
        "answers": ("blocked", "needs prompts, which is not selected; `--select +answers` takes it in"),
        "labels[seed=0]": (
            "blocked",
            "needs samples[seed=0], which is not selected; `--select +labels` takes it in",
        ),
        "rlaif[seed=0]": (
            "blocked",
            "needs best[seed=0], which is not selected; `--select +rlaif` takes it in",
        ),
    }


def test_what_is_sealed_need_not_be_selected() -> None:
    assert planned("answers base", "prompts", "corpus") == {
        "answers": ("run", "not made yet"),
        "base": ("run", "not made yet"),
    }
    assert {a for a, _ in planned("+tune").values()} == {"run"}


def test_a_queued_job_can_be_waited_for_on_slurm_alone() -> None:
    program = world().program
    base = program.keys[program.graph.by_stage["base"][0]]
    made = frozenset(
        k for n, k in zip(program.graph.nodes, program.keys, strict=True) if n.stage == "answers"
    )
    state = State(sealed=made, busy={base: "in the queue as Slurm job 7"}, slurm_jobs={base: "7"})
    (job,) = make_plan(program, state, selected=of("tune"), on_slurm=True).jobs
    assert job.after_slurm == ("7",) and job.after == ()
    assert make_plan(program, state, selected=of("tune")).jobs == ()
