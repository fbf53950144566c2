"""The benchmarks run, and what they measure does its work."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cluster

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


@pytest.mark.slurm
def test_submission_is_measured(slurm: Cluster, tmp_path: Path) -> None:
    options = ["--jobs", "40", "--hops", "2", "--kills", "0", "--rivals", str(tmp_path)]
    told = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "slurm.py", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    rows = [line.split(" | ")[:3] for line in told.stdout.splitlines() if line.startswith("| ")]
    assert rows[2:6] == [
        ["| `alignc submit`", "40", "2"],
        ["| `alignc submit`, a graph of 39", "39", "12"],
        ["| submitit, `map_array`", "40", "1"],
        ["| submitit, `submit`", "40", "40"],
    ]
    assert [row[:2] for row in rows[8:]] == [
        ["| a chain of `alignc submit`", "2"],
        ["| bare jobs, `afterok`", "2"],
    ]


@pytest.mark.slow
def test_judging_is_measured(tmp_path: Path) -> None:
    for name in ("base", "model"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            for number in range(12):
                row = {"instruction": f"tell {number}", "output": f"{name if number else 'same'} {number}"}
                print(json.dumps(row), file=file)
    files = [str(tmp_path / f"{name}.jsonl.gz") for name in ("base", "model")]
    sizes = ["--in-flight", "4", "--many", "30", "--repeats", "1", "--latency", "0.001"]
    told = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "judge.py", "--data", *files, "--rival", tmp_path, *sizes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert f"no alpaca_eval in {tmp_path}" in told.stdout
    rows = [line.strip("| ").split(" | ") for line in told.stdout.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows[2:6]] == [
        ["alignc", "32 (default)"],
        ["alignc", "4"],
        ["bare openai client", "4"],
        ["bare httpx client", "4"],
    ]
    assert rows[-1][0] == "30" and float(rows[-1][3]) > 10
    assert told.stderr.count("'pairs': 11") == 4  # a pair of equal answers is not asked about


@pytest.mark.slow
def test_training_is_measured_beside_trl(tmp_path: Path) -> None:
    draw = random.Random(0)
    for name in ("one", "other"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            for number in range(16):
                text = " ".join(draw.choices(["so", "they", "went", "home"], k=draw.randint(5, 60)))
                print(json.dumps({"instruction": f"tell {number}", "output": text}), file=file)
    files = [str(tmp_path / f"{name}.jsonl.gz") for name in ("one", "other")]
    options = ["--data", *files, "--shapes", "tiny", "--rows", "16", "--repeats", "1"]
    told = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "train.py",
            *options,
            "--systems",
            "alignc,TRL best settings",
            "--tasks",
            "sft",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    rows = [line.strip("| ").split(" | ") for line in told.stdout.splitlines() if line.startswith("| tiny")]
    assert [row[:3] for row in rows] == [
        ["tiny", "SFT", system] for system in ("alignc", "TRL best settings")
    ]
    assert 0 < float(rows[0][5].removesuffix(" %")) < 100  # of the peak
    assert float(rows[0][6]) == pytest.approx(float(rows[1][6]), abs=0.05)
