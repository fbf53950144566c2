"""Writes artifacts in the forms of other programs: AlpacaEval's files, preference data for trainers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from compiler.program import Program
from runtime.artifacts import is_a
from runtime.files import read_json, read_rows, write_atomic
from runtime.interchange.alpaca_eval import COLUMNS, leaderboard_csv, output_row, read_leaderboard
from runtime.interchange.preferences import PAIR, as_messages
from runtime.judging import read_by_id, read_completions
from runtime.store import Damaged, Store

# Form -> what a node must make for it.
FORMS = {
    "model_outputs": ("Completions",),
    "annotations": ("Verdicts", "Scores"),
    "leaderboard": ("Scores",),
    "completions": ("Completions",),
    "preferences": ("Preferences",),
    "messages": ("Completions", "Preferences"),
}


@dataclass(frozen=True, slots=True)
class Sealed:
    """An artifact in the store: its folder, and the manifest with its real inputs."""

    store: Store
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.manifest["id"])

    def input(self, *names: str) -> tuple[Sealed, Path] | None:
        """The artifact and file behind the first of these inputs that there is."""
        for name in names:
            for record in self.manifest["inputs"].get(name, ())[:1]:
                found = open_sealed(self.store, record["kind"], record["key"], record["name"])
                return found, found.folder / record["path"]
        return None


def open_sealed(store: Store, kind: str, key: str, name: str) -> Sealed:
    """Raises UsageError where it is not there, or damaged."""
    real = store.locate(kind, key)
    if real is None:
        raise UsageError(f"{name} is not made yet: `alignc run` with `--select '+{name}'` makes it")
    try:
        store.verify(kind, real)
    except Damaged as error:
        raise UsageError(str(error)) from error
    return Sealed(store, store.artifact(kind, real), store.manifest(kind, real))


def open_node(program: Program, store: Store, index: int) -> Sealed:
    """What a node made. Raises UsageError where it is not there, or damaged."""
    node = program.graph.nodes[index]
    return open_sealed(store, node.kind.name, program.keys[index], node.id)


def write(
    program: Program,
    store: Store,
    indices: Sequence[int],
    form: str,
    output: str | None,
    name: str,
    out: Path,
    onto: Path | None = None,
) -> int:
    """Write nodes' artifacts in a form; returns how many rows.

    output: which output, where several would do. name: the model's name in the file, by default its
    node's. onto: a leaderboard whose rows are kept, but for those of the same names. Raises UsageError
    where a node does not fit or is not made, JobError for rows of another shape.
    """
    nodes = [program.graph.nodes[i] for i in indices]
    paths = {node.id: _path(node.outputs, node.id, form, output) for node in nodes}
    if form != "leaderboard" and len(nodes) > 1:
        shown = ", ".join(list(paths)[:3])
        raise UsageError(f"{form} are those of one node, and {len(nodes)} are named: {shown}")
    sealed = [open_node(program, store, i) for i in indices]
    if form == "leaderboard":
        if name and len(sealed) > 1:
            raise UsageError(f"{len(sealed)} models cannot all be called {name!r}: leave `--name` out")
        rows: dict[str, Mapping[str, Any]] = dict(read_leaderboard(onto)) if onto else {}
        rows |= {name or one.id: _leaderboard_row(one) for one in sealed}
        text, count = leaderboard_csv(rows), len(rows)
    else:
        (one,) = sealed
        made = _rows(one, one.folder / paths[nodes[0].id], form, name)
        lines = form in ("completions", "preferences", "messages")
        text = _json_lines(made) if lines else json.dumps(made, indent=2, ensure_ascii=False) + "\n"
        count = len(made)
    try:
        write_atomic(out, text)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
    return count


def _path(outputs: Mapping[str, Any], id_: str, form: str, output: str | None) -> str:
    """The place of the output to write, inside the node's artifact."""
    fit = {
        name: port.path
        for name, port in outputs.items()
        if any(is_a(port.type, wanted) for wanted in FORMS[form]) and output in (None, name)
    }
    if not fit:
        made = ", ".join(f"{port.type}{f' ({name})' if name else ''}" for name, port in outputs.items())
        raise UsageError(f"{id_} makes {made}: {form} are written of {' or '.join(FORMS[form])}")
    if len(fit) > 1:
        raise UsageError(f"{id_} has several outputs: say which with `--output`: {', '.join(fit)}")
    return next(iter(fit.values()))


def _rows(one: Sealed, path: Path, form: str, name: str) -> list[dict[str, Any]]:
    if form == "model_outputs":
        found = read_completions(path).values()
        return [output_row(row["prompt"], row["completion"], name or one.id) for row in found]
    if form == "annotations":
        return _annotations(one, name)
    rows = read_rows(path)
    if form == "messages":
        return [dict(as_messages(row)) for row in rows]
    fields = PAIR if form == "preferences" else ("prompt", "completion")
    return [{field: row[field] for field in fields} for row in rows]


def _annotations(one: Sealed, name: str) -> list[dict[str, Any]]:
    """Entries of annotations.json: the first answers are those of `a` or the reference."""
    path = one.folder / "verdicts.jsonl"
    first, second = one.input("a", "reference", "prompts"), one.input("b", "completions")
    if first is None or second is None or not path.is_file():
        raise UsageError(f"{one.id} has no verdicts: nobody was asked to judge")
    baseline, answers = read_completions(first[1]), read_completions(second[1])
    judges = [*one.manifest["inputs"].get("critic", ()), *one.manifest["inputs"].get("evaluator", ())]
    told = {
        "generator_1": first[0].id,
        "generator_2": name or second[0].id,
        "annotator": judges[0]["name"],
    }
    return [
        {
            "instruction": row["prompt"],
            "output_1": baseline[id_]["completion"],
            "output_2": answers[id_]["completion"],
            **told,
            "preference": row["preference"],
            "raw_completion": row["replies"][0] if len(row["replies"]) == 1 else row["replies"] or None,
            "version": row["judge"],
            "is_switched_outputs": row["shown"][0] == "ba" if len({*row["shown"]}) == 1 else None,
            "reason": row["reason"],
        }
        for id_, row in read_by_id(path, "prompt").items()
    ]


def _leaderboard_row(one: Sealed) -> dict[str, Any]:
    metrics = read_json(one.folder / "metrics.json")
    if metrics.get("win_rate") is None:
        raise UsageError(f"{one.id} has no win rate, so it cannot stand in a leaderboard")
    if "lc_standard_error" not in metrics:  # controlled by lengths alone, which is no rate of AlpacaEval's
        metrics.pop("length_controlled_winrate", None)
    return {column: metrics.get(column) for column in COLUMNS}


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
