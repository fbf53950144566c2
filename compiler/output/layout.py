"""Boxes and arrows -> a layered drawing: where each box stands, and the path of each edge.

Rows first, then the order in each row, then the places (the steps of Sugiyama, Tagawa and Toda 1981).
All edges of a box that reach far share one trunk, so that an input of many stages stays readable.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf

ROW_HEIGHT = 60  # of a box, in pixels
ROW_GAP = 42
BOX_GAP = 20
TRUNK_GAP = 10
SWEEPS = 12
PULLS = 80

Point = tuple[str, int]  # a box in its row, or its trunk in a row below


@dataclass(frozen=True, slots=True)
class Box:
    """A box's left upper corner and its width, in pixels; all boxes are `ROW_HEIGHT` high."""

    x: float
    y: float
    width: float


@dataclass(frozen=True, slots=True)
class Edge:
    """`path` is the `d` of an SVG path from the lower edge of one box to the upper edge of another."""

    source: str
    target: str
    path: str


@dataclass(frozen=True, slots=True)
class Drawing:
    width: float
    height: float
    boxes: Mapping[str, Box]
    edges: tuple[Edge, ...]


@dataclass(slots=True)
class _Grid:
    """Rows of points, and the links from each row to the next."""

    widths: Mapping[str, float]
    level: dict[str, int]
    rows: list[list[Point]]
    below: dict[Point, list[Point]] = field(default_factory=dict[Point, list[Point]])
    above: dict[Point, list[Point]] = field(default_factory=dict[Point, list[Point]])

    def is_trunk(self, point: Point) -> bool:
        return point[1] != self.level[point[0]]

    def width(self, point: Point) -> float:
        return 0.0 if self.is_trunk(point) else self.widths[point[0]]

    def link(self, upper: Point, lower: Point) -> None:
        self.below.setdefault(upper, []).append(lower)
        self.above.setdefault(lower, []).append(upper)


def draw(widths: Mapping[str, float], edges: Iterable[tuple[str, str]]) -> Drawing:
    """Lay boxes out from top to bottom.

    `widths` names the boxes in an order in which each comes after those it has an edge from; edges
    that go against that order are left out.
    """
    place = {name: i for i, name in enumerate(widths)}
    forward = [(a, b) for a, b in dict.fromkeys(edges) if place[a] < place[b]]
    grid = _grid(widths, forward)
    _order(grid)
    centre = _centres(grid)
    left = min((x - grid.width(p) / 2 for p, x in centre.items()), default=0.0)
    centre = {p: x - left for p, x in centre.items()}
    boxes = {
        name: Box(round(centre[name, level] - widths[name] / 2, 1), _top(level), widths[name])
        for name, level in grid.level.items()
    }
    drawn = tuple(Edge(a, b, _path(grid, centre, a, b)) for a, b in forward)
    width = max((x + grid.width(p) / 2 for p, x in centre.items()), default=0.0)
    return Drawing(round(width, 1), max(0, len(grid.rows) * (ROW_HEIGHT + ROW_GAP) - ROW_GAP), boxes, drawn)


# ---------------------------------------------------------------- rows


def _levels(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The row of each box: below all it reads; what few boxes feed stands close to its first reader."""
    needs: dict[str, list[str]] = {name: [] for name in names}
    users: dict[str, list[str]] = {name: [] for name in names}
    for a, b in edges:
        needs[b].append(a)
        users[a].append(b)
    level: dict[str, int] = {}
    for name in names:
        level[name] = max((level[n] + 1 for n in needs[name]), default=0)
    for name in reversed(names):
        if users[name] and len(needs[name]) <= len(users[name]):
            level[name] = min(level[u] for u in users[name]) - 1
    return level


def _grid(widths: Mapping[str, float], edges: Sequence[tuple[str, str]]) -> _Grid:
    level = _levels(list(widths), edges)
    grid = _Grid(widths, level, [[] for _ in range(max(level.values(), default=-1) + 1)])
    reach = dict(level)
    for a, b in edges:
        reach[a] = max(reach[a], level[b] - 1)
    for name in widths:
        for row in range(level[name], reach[name] + 1):
            grid.rows[row].append((name, row))
            if row > level[name]:
                grid.link((name, row - 1), (name, row))
    for a, b in edges:
        grid.link((a, level[b] - 1), (b, level[b]))
    return grid


# ---------------------------------------------------------------- order


def _crossings(grid: _Grid) -> int:
    total = 0
    for row, lower in pairwise(grid.rows):
        place = {p: i for i, p in enumerate(lower)}
        seen: list[int] = []
        for point in row:
            ends = sorted(place[q] for q in grid.below.get(point, ()))
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _order(grid: _Grid) -> None:
    """Sort rows by the mean place of their neighbours, downwards and upwards; the best order stays."""
    best, fewest = [list(row) for row in grid.rows], _crossings(grid)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = grid.above if down else grid.below
        rows = grid.rows if down else grid.rows[::-1]
        for fixed, row in pairwise(rows):
            place = {p: i / len(fixed) for i, p in enumerate(fixed)}
            own = {p: i / len(row) for i, p in enumerate(row)}
            row.sort(key=lambda p: _mean([place[q] for q in near.get(p, ())], own[p]))
        crossed = _crossings(grid)
        if crossed < fewest:
            best, fewest = [list(row) for row in grid.rows], crossed
    grid.rows[:] = best


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


# ---------------------------------------------------------------- places


def _gap(grid: _Grid, one: Point, other: Point) -> float:
    trunks = grid.is_trunk(one) and grid.is_trunk(other)
    return (grid.width(one) + grid.width(other)) / 2 + (TRUNK_GAP if trunks else BOX_GAP)


def _centres(grid: _Grid) -> dict[Point, float]:
    """The middle of each point: near its neighbours' middles, in order, without overlaps."""
    rows = [(row, [_gap(grid, a, b) for a, b in pairwise(row)]) for row in grid.rows]
    centre: dict[Point, float] = {}
    for row, gaps in rows:
        places = accumulate(gaps, initial=-sum(gaps) / 2)
        centre.update(zip(row, places, strict=True))
    for sweep in range(PULLS):
        for row, gaps in rows if sweep % 2 == 0 else reversed(rows):
            wanted, weights = zip(*(_pull(grid, centre, point) for point in row), strict=True)
            centre.update(zip(row, _apart(wanted, weights, gaps), strict=True))
    _straighten(grid, centre)
    return centre


def _pull(grid: _Grid, centre: Mapping[Point, float], point: Point) -> tuple[float, float]:
    """Where its links draw a point, and how strongly; trunks want to be straight."""
    near = [*grid.above.get(point, ()), *grid.below.get(point, ())]
    if not near:
        return centre[point], 0.1
    weights = [(4 if grid.is_trunk(point) else 1) * (4 if grid.is_trunk(q) else 1) for q in near]
    return sum(w * centre[q] for w, q in zip(weights, near, strict=True)) / sum(weights), sum(weights)


def _apart(wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The places closest to the wanted ones (weighted squares) that keep order and gaps.

    Isotonic regression by pooling neighbours that would stand too close.
    """
    offsets = list(accumulate(gaps, initial=0.0))
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, mass, size = want - offset, weight, 1
        while pools and pools[-1][0] > mean:
            other, more, members = pools.pop()
            mean = (mean * mass + other * more) / (mass + more)
            mass, size = mass + more, size + members
        pools.append((mean, mass, size))
    means = [mean for mean, _, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _straighten(grid: _Grid, centre: dict[Point, float]) -> None:
    """Move trunks, so that they run straight as far as the room beside their neighbours allows."""
    beside = {
        point: (row[i - 1] if i else None, row[i + 1] if i + 1 < len(row) else None)
        for row in grid.rows
        for i, point in enumerate(row)
    }
    for name, level in grid.level.items():
        piece: list[Point] = []
        low, high = -inf, inf
        for row in range(level + 1, len(grid.rows)):
            point = (name, row)
            if point not in beside:
                break
            left, right = beside[point]
            least = centre[left] + _gap(grid, left, point) if left else -inf
            most = centre[right] - _gap(grid, point, right) if right else inf
            if max(low, least) > min(high, most):
                _align(piece, low, high, centre)
                piece, low, high = [], -inf, inf
            piece.append(point)
            low, high = max(low, least), min(high, most)
        _align(piece, low, high, centre)


def _align(piece: Sequence[Point], low: float, high: float, centre: dict[Point, float]) -> None:
    if piece:
        mean = sum(centre[p] for p in piece) / len(piece)
        centre.update(dict.fromkeys(piece, min(max(mean, low), high)))


# ---------------------------------------------------------------- paths


def _top(level: int) -> float:
    return float(level * (ROW_HEIGHT + ROW_GAP))


def _path(grid: _Grid, centre: Mapping[Point, float], source: str, target: str) -> str:
    """Down the source's trunk as far as needed, then into the target."""
    here = (source, grid.level[source])
    parts = [f"M{centre[here]:.1f} {_top(here[1]) + ROW_HEIGHT:.1f}"]
    for level in range(here[1] + 1, grid.level[target] + 1):
        last = level == grid.level[target]
        point = (target if last else source, level)
        x, y, middle = centre[point], _top(level), _top(level) - ROW_GAP / 2
        parts.append(f"C{centre[here]:.1f} {middle:.1f} {x:.1f} {middle:.1f} {x:.1f} {y:.1f}")
        if not last:
            parts.append(f"V{y + ROW_HEIGHT:.1f}")
        here = point
    return "".join(parts)
