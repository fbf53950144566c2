"""AlpacaEval's length-controlled win rate: what the win rate would be if both answers were as long.

A logistic model without intercept of the preference (Dubois et al. 2024, arXiv 2404.04475), with the
features of each pair

    tanh((len_1 - len_2) / s)    lengths in characters of baseline and model, s their difference's
                                 sample deviation (ddof 1) over the model's pairs
    difficulty                   of the instruction, fixed beforehand
    1                            on the model's pairs, 0 on those of the gamed baseline

The length-controlled win rate is the mean over instructions of sigma(w_3 + w_2 difficulty): the first
feature is 0. The fit minimises |w|_1 + C sum of weighted log losses, with the gamed rows at weight
0.2 / 2 each; C comes of five-fold cross-validation. Here the optimum is exact, upstream's liblinear
stops within its tolerance. Fitting needs numpy, all else only Python.

Where there are no such difficulties and no gamed baseline, for instructions of one's own, the model is
lengths and the last feature alone (`Control` without files): the same question, asked of the model's own
pairs. Rates of the two kinds are not compared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runtime.interchange.alpaca_eval import Annotation, Output, column_number, read_table
from runtime.job import JobError
from runtime.sources.pick import text
from runtime.sources.records import array_or_lines
from runtime.statistics.estimates import mean, standard_error, win

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Alignment = Literal["instruction", "position"]

LENGTH, DIFFICULTY, NOT_GAMED = FEATURES = (
    "np.tanh(std_delta_len)",
    "instruction_difficulty",
    "not_gamed_baseline.astype(float)",
)  # as upstream's files of weights name them
GAMED_WEIGHT = 0.2 / 2
GRID = tuple(10 ** (-4 + 8 * i / 9) for i in range(10))  # of C
FOLDS = 5
RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the three features, and the C that they were fitted with, where that is known."""

    length: float
    difficulty: float
    not_gamed: float
    c: float | None = None


NO_WEIGHTS = Weights(0.0, 0.0, 0.0)  # of the baseline itself: exactly 50 %


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """In percent. The standard error is AlpacaEval's `lc_standard_error`: of the predictions' mean over
    instructions given the weights, so it says nothing of how certain the weights are."""

    win_rate: float
    standard_error: float | None
    weights: Weights


def predict(weights: Weights, difficulties: Sequence[float]) -> LengthControlled:
    """The length-controlled win rate on instructions of these difficulties."""
    rates = [100 * _sigma(weights.not_gamed + weights.difficulty * d) for d in difficulties]
    return LengthControlled(mean(rates), standard_error(rates), weights)


def _sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else 1 - 1 / (1 + math.exp(z))


# ---------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class Difficulties:
    """Of the instructions of AlpacaEval's set, in its order; `by_text` is empty where no text is known."""

    path: Path
    values: tuple[float, ...]
    by_text: Mapping[str, float]


def read_difficulties(path: Path, reference: Sequence[Output]) -> Difficulties:
    """A CSV of `index, instruction_difficulty`, and `instruction` where it has it.

    Without that column, row n belongs to row n of the reference outputs.
    """
    rows = list(read_table(path, ("index", "instruction_difficulty")))
    values = tuple(column_number(row, "instruction_difficulty", where) for where, row in rows)
    for number, (where, row) in enumerate(rows):
        if row["index"] != str(number):
            raise JobError(f"{where}: the index should be {number}, in order from 0, not {row['index']!r}")
    if rows and "instruction" in rows[0][1]:
        return Difficulties(
            path, values, {row["instruction"]: v for (_, row), v in zip(rows, values, strict=True)}
        )
    if reference and len(reference) != len(values):
        raise JobError(
            f"{path} has {len(values)} difficulties, the reference {len(reference)} instructions: "
            "give the baseline's outputs for the whole set, in its order"
        )
    texts = (row.instruction for row in reference)
    return Difficulties(path, values, dict(zip(texts, values, strict=False)))


def align(rows: Sequence[Annotation], known: Difficulties, alignment: Alignment) -> list[float]:
    """The difficulty of each row.

    `position` is AlpacaEval's own way: row n has the nth difficulty, whatever its instruction is, so that
    one missing output shifts all that follow. It reproduces published figures of models that lack some.
    """
    if alignment == "position":
        if len(rows) > len(known.values):
            raise JobError(f"{known.path} has {len(known.values)} difficulties for {len(rows)} annotations")
        return list(known.values[: len(rows)])
    if not known.by_text:
        raise JobError(
            f"{known.path} does not say whose difficulties these are: give `--reference` with the "
            "baseline's outputs in AlpacaEval's order, or add a column `instruction`"
        )
    return [_difficulty(row, known) for row in rows]


def _difficulty(row: Annotation, known: Difficulties) -> float:
    if row.instruction is None:
        raise JobError(f"{row.where}: its instruction is not known; give `--reference`")
    if row.instruction not in known.by_text:
        raise JobError(
            f"{row.where}: {known.path} has no difficulty of this instruction: length control is defined "
            "on AlpacaEval's own instructions only"
        )
    return known.by_text[row.instruction]


def read_weights(path: Path, name: str) -> Weights:
    """A model's row of upstream's file of fitted weights."""
    rows = {row[""]: (where, row) for where, row in read_table(path, ("", *FEATURES))}
    if name not in rows:
        shown = ", ".join(list(rows)[:12]) + (" ..." if len(rows) > 12 else "")
        raise JobError(f"{path} has no weights of {name!r}; say which with `--name`: {shown}")
    where, row = rows[name]
    return Weights(*(column_number(row, feature, where) for feature in FEATURES))


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of the fit: standardised difference of lengths before tanh, difficulty, win from 0 to 1."""

    length: float
    difficulty: float
    win: float


def read_gamed(path: Path) -> list[Pair]:
    """Upstream's df_gamed.csv: the baseline, told to be brief or wordy, against itself."""
    names = ("std_delta_len", "instruction_difficulty", "preference")
    return [Pair(*(column_number(row, n, where) for n in names)) for where, row in read_table(path, names)]


# ---------------------------------------------------------------- fit


def pairs_of(rows: Sequence[Annotation], difficulties: Sequence[float]) -> list[Pair]:
    """The model's pairs for the fit; those without a verdict count for the deviation of lengths only."""
    deltas = []
    for row in rows:
        if row.baseline is None or row.answer is None:
            lacking = "--reference" if row.baseline is None else "--outputs"
            raise JobError(
                f"{row.where}: an answer's text is missing, and its length with it; give `{lacking}`"
            )
        deltas.append(len(row.baseline) - len(row.answer))
    middle = mean(deltas)
    deviation = math.sqrt(math.fsum((x - middle) ** 2 for x in deltas) / max(1, len(deltas) - 1))
    if not deviation:
        raise JobError(
            "every answer differs from the baseline's in length by the same, so none can be fitted"
        )
    found = []
    for row, delta, difficulty in zip(rows, deltas, difficulties, strict=True):
        won = win(row.preference)
        if won is not None:
            found.append(Pair(delta / deviation, difficulty, won))
    return found


def fit(pairs: Sequence[Pair], gamed: Sequence[Pair], c: float | None = None) -> Weights:
    """The weights of a model; C by cross-validation where it is not given. Needs numpy.

    Folds are upstream's: rows dealt in turn from the last one on, the gamed rows before the model's.
    """
    import numpy as np

    rows = [*gamed, *pairs]
    model = np.arange(len(rows)) >= len(gamed)
    x = np.column_stack(
        [np.tanh([p.length for p in rows]), [p.difficulty for p in rows], model.astype(float)]
    )
    y = np.array([p.win for p in rows])
    weight = np.where(model, 1.0, GAMED_WEIGHT)
    if c is None:
        c = GRID[int(np.argmin(_validation_losses(x, y, weight)))]
    found = _minimise(x, y, c * weight, np.zeros(3))
    length, difficulty, not_gamed = map(float, found)
    return Weights(length, difficulty, not_gamed, c)


def _validation_losses(x: Array, y: Array, weight: Array) -> Array:
    """The mean weighted log loss on held-out rows for each C, averaged over folds."""
    import numpy as np

    fold = np.arange(len(y))[::-1] % FOLDS
    losses = np.zeros(len(GRID))
    for held in range(FOLDS):
        train, test = fold != held, fold == held
        start = np.zeros(3)
        for i, c in enumerate(GRID):
            start = _minimise(x[train], y[train], c * weight[train], start)
            losses[i] += np.mean(weight[test] * _log_loss(x[test] @ start, y[test])) / FOLDS
    return losses


def _log_loss(z: Array, y: Array) -> Any:
    import numpy as np

    return np.logaddexp(0, z) - y * z


def _minimise(x: Array, y: Array, weight: Array, start: Array) -> Array:
    """The minimum of |w|_1 + sum of weight * log loss: Newton steps on the smooth part, each solved with
    the |w|_1 by coordinate descent, halved until they help (proximal Newton; Lee, Sun, Saunders 2014)."""
    import numpy as np

    def loss(w: Array) -> float:
        return float(np.abs(w).sum() + weight @ _log_loss(x @ w, y))

    w, value = start, loss(start)
    for _ in range(100):
        p = 1 / (1 + np.exp(-(x @ w)))
        gradient = x.T @ (weight * (p - y))
        curvature = (x.T * (weight * p * (1 - p))) @ x + 1e-12 * np.eye(len(w))
        step = _lasso(gradient - curvature @ w, curvature, w) - w
        while (new := loss(w + step)) > value and np.abs(step).max() > 1e-12:
            step /= 2
        if new >= value - 1e-13 * abs(value):
            return w + step if new < value else w
        w, value = w + step, new
    return w


def _lasso(linear: Array, curvature: Array, start: Array) -> Array:
    """The minimum of |w|_1 + linear w + w curvature w / 2, one coordinate at a time."""
    import numpy as np

    w = start.copy()
    for _ in range(1000):
        before = w.copy()
        for i in range(len(w)):
            pull = linear[i] + curvature[i] @ w - curvature[i, i] * w[i]
            w[i] = -np.sign(pull) * max(abs(pull) - 1, 0) / curvature[i, i]
        if np.abs(w - before).max() <= 1e-12 * (1 + np.abs(w).max()):
            break
    return w


# ---------------------------------------------------------------- control


@dataclass(frozen=True, slots=True)
class Control:
    """By what a model's pairs are controlled: AlpacaEval's difficulties and gamed rows, or lengths alone."""

    known: Difficulties | None = None
    gamed: Sequence[Pair] = ()

    def difficulties(self, rows: Sequence[Annotation]) -> list[float]:
        """Of each row; raises JobError where an instruction is none of AlpacaEval's."""
        return [0.0] * len(rows) if self.known is None else align(rows, self.known, "instruction")

    def rate(self, rows: Sequence[Annotation]) -> tuple[LengthControlled, float]:
        """The rate of a model's pairs, and the standard error of its fit, in points.

        Rows are put in AlpacaEval's order first, on which its folds depend; without its files C is the
        largest, so that the penalty does no more than keep the weights finite. The error is that of fits
        at the same C on pairs drawn anew. Raises JobError where nothing can be fitted.
        """
        if self.known is not None:
            place = {instruction: number for number, instruction in enumerate(self.known.by_text)}
            rows = sorted(rows, key=lambda row: place.get(row.instruction or "", -1))
        difficulties = self.difficulties(rows)
        pairs = pairs_of(rows, difficulties)
        if len(pairs) < 2:
            raise JobError("fewer than two pairs have a verdict")
        weights = fit(pairs, self.gamed, None if self.known else GRID[-1])
        return predict(weights, difficulties), _refitted_error(pairs, self.gamed, weights)


def _refitted_error(pairs: Sequence[Pair], gamed: Sequence[Pair], weights: Weights) -> float:
    draw = random.Random(0)
    rates = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(pairs, k=len(pairs))
        rates.append(predict(fit(drawn, gamed, weights.c), [p.difficulty for p in drawn]).win_rate)
    return math.sqrt(RESAMPLES) * (standard_error(rates) or 0.0)


def read_control(folder: Path) -> Control:
    """AlpacaEval's files of length control in a folder. Raises JobError."""
    known = read_difficulties(_one(folder, "instruction_difficulty.csv"), _instructions(folder))
    return Control(known, read_gamed(_one(folder, "df_gamed.csv")))


def _one(folder: Path, *names: str) -> Path:
    """The first of these files that is there, gzipped or not."""
    for path in (folder / f"{name}{ending}" for name in names for ending in ("", ".gz")):
        if path.is_file():
            return path
    raise JobError(f"{folder} has no {' or '.join(names)}: put AlpacaEval's files of length control there")


def _instructions(folder: Path) -> list[Output]:
    path = _one(folder, "alpaca_eval.json", "alpaca_eval.jsonl")
    return [
        Output(text(record.get("instruction"), "instruction", where), "")
        for where, record in array_or_lines(path)
    ]
