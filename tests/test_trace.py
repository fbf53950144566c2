"""`alignc trace`: what stands behind a number of a table."""

from __future__ import annotations

import json
import re
from pathlib import Path

from runtime.results.everything import load_results
from runtime.results.trace import trace_text
from runtime.store import Store
from tests.commands import alignc
from tests.golden import check_golden
from tests.results_world import study
from tests.specs import LIGHT


def test_a_number_of_a_study(tmp_path: Path) -> None:
    world = study(Store(tmp_path))
    found = load_results(world.store, world.description())
    whole = trace_text(found, "fig3", "yi-6b", "RLAIF")
    lacking = trace_text(found, "fig3", "llama-7b", "RLAIF")
    check_golden("results/trace.txt", re.sub(r"[0-9a-f]{12}\b", "KEY", f"{whole}\n\n{lacking}\n"))


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    told = alignc("trace", "light.yaml", "main", "Weak", "accuracy", cwd=tmp_path)
    assert "not run" in told and "score[seed=1]" in told
    alignc("run", "light.yaml", cwd=tmp_path)
    told = alignc("trace", "light.yaml", "main", "Weak", "accuracy", cwd=tmp_path)
    for part in ("seed 0", "score[seed=1]", "wrong[seed=1]", "prompts", "light.yaml:11"):
        assert part in told
    found = json.loads(
        alignc(
            "trace", "light.yaml", "main", "Weak", "accuracy", "--format", "json", cwd=tmp_path, errors=False
        )
    )
    behind = {job["node"]: job for job in found["jobs"]}
    assert set(behind) == {"prompts", "right", "wrong[seed=0]", "wrong[seed=1]"}
    assert all(Path(job["artifact"]).is_dir() for job in behind.values())
    assert [member["label"] for member in found["members"]] == ["seed 0", "seed 1"]
    wrong = {
        ("mein", "Weak", "accuracy"): "there is no table `mein`; did you mean `main`?",
        ("main", "Strong", "accuracy"): "there is no row `Strong`; there are Weak",
        ("main", "Weak", "acuracy"): "there is no column `acuracy`; did you mean `accuracy`?",
    }
    for words, message in wrong.items():
        assert message in alignc("trace", "light.yaml", *words, cwd=tmp_path, code=2)
