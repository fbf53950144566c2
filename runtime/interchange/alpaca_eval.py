"""AlpacaEval's files: model_outputs.json, annotations.json, leaderboard.csv, and those of its length control.

Readers take a JSON array or JSON lines, and CSV, any of them gzipped. They raise JobError with the
place, the cause and the way out.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.files import open_text
from runtime.job import JobError
from runtime.sources.pick import text
from runtime.sources.records import array_or_lines

# ---------------------------------------------------------------- outputs


@dataclass(frozen=True, slots=True)
class Output:
    """One answer of model_outputs.json."""

    instruction: str
    output: str
    generator: str = ""


def read_outputs(path: Path) -> list[Output]:
    """The answers of a model, in the file's order."""
    return [_output(record, where) for where, record in array_or_lines(path)]


def _output(record: Mapping[str, Any], where: str) -> Output:
    for name in ("instruction", "output"):
        if name not in record:
            raise JobError(f"{where}: there is no field `{name}`; a model_outputs.json of AlpacaEval has it")
    return Output(
        text(record["instruction"], "instruction", where),
        text(record["output"], "output", where),
        _name(record, "generator"),
    )


def output_row(prompt: str, completion: str, generator: str) -> dict[str, str]:
    """One entry of model_outputs.json."""
    return {"instruction": prompt, "output": completion, "generator": generator}


# ---------------------------------------------------------------- annotations


@dataclass(frozen=True, slots=True)
class Annotation:
    """One judged pair. `idx` is the row of its instruction in AlpacaEval's set, where the file says it.

    `preference`: 1 the baseline is better, 2 the model, between them by degree, 0 an old tie; None no
    verdict. `price` is in USD. Texts are None where the file leaves them out. `switched`: whether the judge
    saw the model's answer first, where the file says it; `reason`: why there is no preference, likewise.
    """

    where: str
    preference: float | None
    instruction: str | None = None
    baseline: str | None = None
    answer: str | None = None
    baseline_name: str = ""
    name: str = ""
    idx: int | None = None
    price: float | None = None
    annotator: str = ""
    switched: bool | None = None
    reason: str = ""


def read_annotations(path: Path, field: str = "preference") -> list[Annotation]:
    """The judged pairs of an annotations.json, in its order. `field` holds the preference."""
    found = [_annotation(record, where, field) for where, record in array_or_lines(path)]
    if not found:
        raise JobError(f"{path} holds no annotations")
    return found


def _annotation(record: Mapping[str, Any], where: str, field: str) -> Annotation:
    if field not in record:
        there = ", ".join(record) or "none at all"
        raise JobError(
            f"{where}: there is no field `{field}`; the fields are {there}: "
            "give an annotations.json of AlpacaEval"
        )
    idx = record.get("idx")
    if idx is not None and (isinstance(idx, bool) or not isinstance(idx, int) or idx < 0):
        raise JobError(f"{where}: `idx` must be a row number from 0 on, not {idx!r}; mend it")
    texts = {name: record.get(name) for name in ("instruction", "output_1", "output_2")}
    said = {name: None if value is None else text(value, name, where) for name, value in texts.items()}
    return Annotation(
        where,
        _number(record[field], field, where),
        _with_input(said["instruction"], record.get("input")),
        said["output_1"],
        said["output_2"],
        _name(record, "generator_1"),
        _name(record, "generator_2"),
        idx,
        _number(record.get("price_per_example", record.get("price")), "price", where),
        _name(record, "annotator"),
        None if record.get("is_switched_outputs") is None else bool(record["is_switched_outputs"]),
        _name(record, "reason"),
    )


def _with_input(instruction: str | None, given: Any) -> str | None:
    """An instruction with the input that AlpacaFarm keeps apart, as AlpacaEval's set has it."""
    return f"{instruction}\n\n{given}" if instruction is not None and given else instruction


def _name(record: Mapping[str, Any], field: str) -> str:
    return str(record.get(field) or "")


def _number(value: Any, name: str, where: str) -> float | None:
    """A number; None for null and NaN, which pandas writes for it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        raise JobError(
            f"{where}: `{name}` must be a number or null, not {str(value)[:40]!r}; mend that entry"
        )
    return None if math.isnan(value) else float(value)


def with_texts(
    annotations: Sequence[Annotation], outputs: Sequence[Output], reference: Sequence[Output]
) -> list[Annotation]:
    """Annotations with the texts that their file leaves out.

    An annotation without an instruction has that of row `idx` of `reference`; then the baseline's answer
    comes from there and the model's from `outputs`, both by instruction. Texts in the annotations stay.
    """
    answers = {row.instruction: row.output for row in outputs}
    baseline = {row.instruction: row.output for row in reference}
    found = []
    for row in annotations:
        instruction = row.instruction
        if instruction is None and row.idx is not None and reference:
            if row.idx >= len(reference):
                raise JobError(
                    f"{row.where}: `idx` is {row.idx}, and the reference has {len(reference)} rows; "
                    "give the baseline's whole model_outputs.json"
                )
            instruction = reference[row.idx].instruction
        found.append(
            replace(
                row,
                instruction=instruction,
                baseline=baseline.get(instruction or "") if row.baseline is None else row.baseline,
                answer=answers.get(instruction or "") if row.answer is None else row.answer,
            )
        )
    return found


def by_instruction(annotations: Sequence[Annotation]) -> dict[str, Annotation]:
    """Annotations by instruction, or by `idx` where no text is known. Raises JobError for repetitions."""
    found: dict[str, Annotation] = {}
    for row in annotations:
        if row.instruction is None and row.idx is None:
            raise JobError(f"{row.where}: there is no `instruction`, by which pairs are told apart; add it")
        key = f"row {row.idx}" if row.instruction is None else row.instruction
        if key in found:
            raise JobError(f"{row.where}: judged already at {found[key].where}; remove one of the two")
        found[key] = row
    return found


# ---------------------------------------------------------------- leaderboard

COLUMNS = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate",
    "mode", "avg_length", "length_controlled_winrate", "lc_standard_error",
)  # fmt: skip


def read_leaderboard(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a leaderboard.csv by model, as written."""
    return {row.pop(""): row for _, row in read_table(path, ("", "win_rate"))}


def leaderboard_csv(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A leaderboard.csv: the best win rate first, columns that are not known empty, those of others kept."""
    more = dict.fromkeys(name for row in rows.values() for name in row if name not in COLUMNS)
    out = io.StringIO()
    writer = csv.DictWriter(out, ["", *COLUMNS, *more], lineterminator="\n", restval="")
    writer.writeheader()
    for name, row in sorted(rows.items(), key=lambda item: -float(item[1].get("win_rate") or 0)):
        writer.writerow({"": name, **{key: "" if value is None else value for key, value in row.items()}})
    return out.getvalue()


# ---------------------------------------------------------------- length control


def read_table(path: Path, needed: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(`file:line`, row) of a CSV file with a header that has the needed columns."""
    try:
        with open_text(path) as file:
            reader = csv.DictReader(file, strict=True)
            for column in needed:
                if column not in (reader.fieldnames or ()):
                    there = ", ".join(map(repr, reader.fieldnames or ())) or "none at all"
                    raise JobError(f"{path}:1: there is no column {column!r}; the columns are {there}")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise JobError(f"{where}: another number of fields than the header has; mend that line")
                yield where, row
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise JobError(f"{path}: not a CSV file that can be read: {error}") from error


def column_number(row: Mapping[str, str], name: str, where: str) -> float:
    """A finite number of a CSV row. Raises JobError."""
    try:
        value = float(row[name])
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise JobError(f"{where}: `{name}` must be a number, not {row[name]!r}; mend that line")
