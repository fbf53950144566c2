"""The benchmarks run, and what they measure does its work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_plans_are_measured_and_the_table_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- plan.py -->\nold\n<!-- end of plan.py -->\nafter\n")
    options = ["--jobs", "1", "--repeat", "1", "--rivals", str(tmp_path), "--write", str(page)]
    program = ROOT / "benchmarks" / "plan.py"
    told = subprocess.run(
        [sys.executable, program, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    text = page.read_text()
    assert text == f"before\n<!-- plan.py -->\n{told.stdout}<!-- end of plan.py -->\nafter\n"
    assert f"no snakemake in {tmp_path}" in text and f"no doit in {tmp_path}" in text
    rows = [line.split(" | ")[:3] for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        ["| ", "`alignc --help`", "4"],
        ["| 39", "`alignc plan`, nothing made", "1"],
        ["| 39", "`alignc plan`, all made", "1"],
        ["| 39", "`alignc plan`, all made, a line edited", "1"],
    ]
