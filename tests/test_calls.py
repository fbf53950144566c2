"""What sbatch is told of arrays and of the jobs that come first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.slurm.limits import Place
from runtime.slurm.submission import Call, _options, array_of, dependency

A, B, NONE = ("a.json",), ("b.json",), ()


@pytest.mark.parametrize(
    ("tasks", "throttle", "first", "told"),
    [
        ((A, B, A), None, 0, "0-2"),
        ((A, B, A), 2, 1, "1-2%2"),
        ((A, NONE, A, B, NONE, A), 4, 0, "0,2-3,5%4"),
        ((A, NONE, A, B, NONE, A), None, 3, "3,5"),
    ],
)
def test_arrays_with_gaps(
    tasks: tuple[tuple[str, ...], ...], throttle: int | None, first: int, told: str
) -> None:
    assert array_of(tasks, throttle, first) == told


@pytest.mark.parametrize(
    ("whole", "elementwise", "options"),
    [
        ([], [], ()),
        (["1", "2"], [], ("--dependency=afterany:1:2",)),
        ([], ["3"], ("--dependency=aftercorr:3", "--kill-on-invalid-dep=yes")),
        (["1"], ["3", "4"], ("--dependency=afterany:1,aftercorr:3:4", "--kill-on-invalid-dep=yes")),
    ],
)
def test_dependencies(whole: list[str], elementwise: list[str], options: tuple[str, ...]) -> None:
    assert dependency(whole, elementwise) == options


def call(number: int, **more: object) -> Call:
    told = Call(number, "e", f"e.{number}", Place(), "", "", None, (A, NONE, B), (("k",), (), ("l",)))
    return replace(told, **more)


PARENT = call(1, made=3, ids=("7",))
CHILD = call(2, after=(1,), elementwise=(1,), after_slurm=("5", "6"))
ARRAY = "--array=0,2"


@pytest.mark.parametrize(
    ("parent", "child", "live", "fresh", "after"),
    [
        (PARENT, CHILD, {"5", "7"}, {"7"}, "afterany:5,aftercorr:7"),
        (PARENT, CHILD, {"7"}, set[str](), "afterany:7"),  # Slurm may have forgotten some of its tasks
        (PARENT, CHILD, set[str](), set[str](), None),  # all ended
        (replace(PARENT, ids=("7", "8")), CHILD, {"7", "8"}, {"7", "8"}, "afterany:7:8"),  # cut in two
        (replace(PARENT, made=2), CHILD, {"7"}, {"7"}, "afterany:7"),  # the rest follows
        (PARENT, replace(CHILD, elementwise=()), {"7"}, {"7"}, "afterany:7"),
    ],
)
def test_aftercorr_where_slurm_can_keep_it(
    parent: Call, child: Call, live: set[str], fresh: set[str], after: str | None
) -> None:
    options = _options(child, child.left, {1: parent, 2: child}, live, fresh)
    kill = ["--kill-on-invalid-dep=yes"] if after and "aftercorr" in after else []
    assert options == ([f"--dependency={after}", *kill] if after else [])


def test_the_next_part_of_an_array_is_named() -> None:
    assert _options(call(1), 1, {}, set(), set()) == ["--array=0"]
    assert _options(call(1, made=1), 1, {}, set(), set()) == ["--array=2"]
    assert (call(1).left, call(1, made=1).left, call(1).after_next(2)) == (2, 1, 3)
