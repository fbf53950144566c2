"""The drawing of the stage graph: rows, room, paths."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest

from compiler.output.layout import BOX_GAP, ROW_GAP, ROW_HEIGHT, Drawing, draw

STEP = ROW_HEIGHT + ROW_GAP


def rows(drawing: Drawing) -> dict[str, int]:
    return {name: round(box.y / STEP) for name, box in drawing.boxes.items()}


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ("", {"a": 0, "b": 0, "c": 0}),
        ("ab bc", {"a": 0, "b": 1, "c": 2}),
        ("ab bc ac", {"a": 0, "b": 1, "c": 2}),
        ("ac bc", {"a": 0, "b": 0, "c": 1}),
        ("ab ad bd cd", {"a": 0, "b": 1, "c": 1, "d": 2}),  # c stands close to its reader
        ("ba aa", {"a": 0, "b": 0, "c": 0}),  # against the order: left out
    ],
)
def test_rows(edges: str, expected: dict[str, int]) -> None:
    pairs = [(a, b) for a, b in edges.split()]
    names = sorted({"a", "b", "c", *expected})
    assert rows(draw(dict.fromkeys(names, 50.0), pairs)) == expected


def test_nothing_to_draw() -> None:
    assert draw({}, []) == Drawing(0.0, 0, {}, ())


def test_a_chain_is_straight() -> None:
    drawing = draw({"a": 60.0, "b": 100.0, "c": 80.0}, [("a", "b"), ("b", "c")])
    assert {box.x + box.width / 2 for box in drawing.boxes.values()} == {50.0}
    assert (drawing.width, drawing.height) == (100.0, 2 * STEP + ROW_HEIGHT)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_keep_apart_and_edges_pass_between_them(seed: int) -> None:
    draws = random.Random(seed)
    names = [f"n{i}" for i in range(draws.randint(2, 40))]
    widths = {name: float(draws.randint(60, 240)) for name in names}
    edges = [
        (a, b) for i, b in enumerate(names) for a in draws.sample(names[:i], min(i, draws.randint(0, 3)))
    ]
    drawing = draw(widths, edges)
    assert set(drawing.boxes) == set(names) and {(e.source, e.target) for e in drawing.edges} == set(edges)
    level = rows(drawing)
    assert all(level[a] < level[b] for a, b in edges)
    for row in range(max(level.values()) + 1):
        boxes = sorted((b for n, b in drawing.boxes.items() if level[n] == row), key=lambda b: b.x)
        assert boxes[0].x >= 0 and boxes[-1].x + boxes[-1].width <= drawing.width + 0.1
        for left, right in pairwise(boxes):
            assert right.x - left.x - left.width >= BOX_GAP - 0.2
    for edge in drawing.edges:
        points = [tuple(map(float, p)) for p in re.findall(r"(-?[\d.]+) (-?[\d.]+)(?=[CV]|$)", edge.path)]
        for x, y in points[1:-1]:  # where a trunk enters a row, no box of that row stands
            inside = [b for n, b in drawing.boxes.items() if b.y == y and b.x < x < b.x + b.width]
            assert not inside, (edge, inside)
        end = drawing.boxes[edge.target]
        assert points[-1] == pytest.approx((end.x + end.width / 2, end.y), abs=0.2)


def test_an_order_without_crossings_is_found() -> None:
    """Two chains given crosswise: their lines do not cross."""
    drawing = draw(dict.fromkeys("abcd", 50.0), [("a", "d"), ("b", "c")])
    middle = {name: box.x for name, box in drawing.boxes.items()}
    assert (middle["a"] < middle["b"]) == (middle["d"] < middle["c"])
