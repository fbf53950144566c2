"""Rows that stay on disk are found as in a dict, and take little memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from runtime.files import write_rows
from runtime.rows import RowsOnDisk, placed_rows

N = 5000


def opened(path: Path) -> RowsOnDisk[int]:
    rows = RowsOnDisk[int](path, "id", lambda row: row["n"])
    for _, place, row in placed_rows(path):
        rows.place(row["id"], place)
    return rows


def test_as_a_dict_the_last_row_of_a_key_counts(tmp_path: Path) -> None:
    ids = [f"{i % (N // 2):064}" for i in range(N)] + ["\ud83d", "", "ä\u2028"]
    lines = (json.dumps({"id": id_, "n": n}) + "\n" for n, id_ in enumerate(ids))
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    rows, truth = opened(tmp_path / "rows.jsonl"), {id_: n for n, id_ in enumerate(ids)}
    assert dict(rows) == truth and list(rows) == list(truth) and len(rows) == len(truth)
    assert "nobody" not in rows and rows.get("nobody") is None and 5 not in rows


def test_a_row_takes_tens_of_bytes(tmp_path: Path) -> None:
    write_rows(path := tmp_path / "rows.jsonl", ({"id": f"{i:064}", "n": i} for i in range(N)))
    tracemalloc.start()
    try:
        rows = opened(path)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(rows) == N and used / N < 70


def test_another_row_in_its_place_is_not_taken_for_it(tmp_path: Path) -> None:
    write_rows(path := tmp_path / "rows.jsonl", [{"id": "a", "n": 1}])
    rows = opened(path)
    write_rows(path, [{"id": "b", "n": 2}])
    with pytest.raises(RuntimeError, match=r"rows\.jsonl has changed: another row stands where 'a' did"):
        rows["a"]
