"""Reward models in a whole study, that of docs/rewards.md: train, choose, rank, tune, compare."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from runtime.files import read_json, read_rows
from tests.commands import alignc, artifacts

PAGE = Path(__file__).parent.parent / "docs" / "rewards.md"


def test_the_study_of_the_page(tmp_path: Path) -> None:
    found = re.search(r"<!-- file: rewards.yaml -->\n```yaml\n(.*?)```", PAGE.read_text(), re.S)
    assert found
    (tmp_path / "rewards.yaml").write_text(found[1])
    alignc("run", "rewards.yaml", "--store", "store", cwd=tmp_path)
    made: dict[str, list[Path]] = {}
    for key, kind in artifacts(tmp_path / "store").items():
        made.setdefault(kind, []).append(tmp_path / "store" / kind / key)
    assert {kind: len(made[kind]) for kind in ("reward", "score", "rank", "dpo")} == {
        "reward": 2,
        "score": 4,
        "rank": 1,
        "dpo": 1,
    }
    choice = read_json(made["select"][0] / "choice.json")
    assert choice["chosen"]["kind"] == "reward" and choice["metric"] == "accuracy"
    chosen = tmp_path / "store" / "reward" / choice["chosen"]["key"] / "model"
    words = ("rewards.yaml", f"rewards[epoch={choice['axes']['epoch']}]", chosen, "--store", "new")
    assert "adopted" in alignc("adopt", *words, cwd=tmp_path)
    pairs = list(read_rows(made["rank"][0] / "data.jsonl"))
    assert pairs and all(row["chosen"] != row["rejected"] for row in pairs)
    alignc("results", "rewards.yaml", "--store", "store", "--out", "out", cwd=tmp_path)
    with (tmp_path / "out" / "main.csv").open() as file:
        table = list(csv.DictReader(file))
    shown = [row["row"] for row in table if row["column"] == "reward" and row["level"] == "cell"]
    assert shown == ["SFT", "Ranked and tuned"]
    (difference,) = (row for row in table if row["level"] == "comparison")
    assert (difference["metric"], int(difference["n_prompts"])) == ("reward", 32)
