"""Commands on a part of an experiment: only that part is run, waited for, told and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import alignc, artifacts
from tests.specs import LIGHT


@pytest.fixture
def light(tmp_path: Path) -> Path:
    (tmp_path / "light.yaml").write_text(LIGHT)
    return tmp_path


def made(folder: Path) -> list[str]:
    return sorted(artifacts(folder / ".alignc").values())


def test_a_part_is_run_and_then_the_rest(light: Path) -> None:
    alignc("run", "light.yaml", "-s", "+wrong[seed=0]", cwd=light)
    assert made(light) == ["demonstrate", "prepare"]
    text = alignc("run", "light.yaml", "-s", "score", cwd=light, code=1)
    assert "not run: score[seed=0]: needs right, which is not selected; `--select +score` takes it in" in text
    assert made(light) == ["demonstrate", "prepare"]
    text = alignc("run", "light.yaml", "-s", "+table:main", "--exclude", "seed=1", cwd=light)
    assert made(light) == ["demonstrate", "demonstrate", "evaluate", "prepare"] and "win_rate" not in text
    text = alignc("run", "light.yaml", "-s", "+table:main", cwd=light)
    assert "label" not in made(light) and "win_rate" in text


def test_nodes_are_chosen_by_how_far_they_are(light: Path) -> None:
    alignc("run", "light.yaml", "-s", "+right", cwd=light)
    words = ("status", "light.yaml", "--format", "json", "-s")
    for selector, ids in {
        "state:done": ["prompts", "right"],
        "state:reuse": ["prompts", "right"],
        "state:waiting,seed=0": ["wrong[seed=0]", "score[seed=0]", "labels[seed=0]"],
        "1+score,state:run": ["wrong[seed=0]", "wrong[seed=1]", "score[seed=0]", "score[seed=1]"],
        "state:failed": [],
    }.items():
        told = json.loads(alignc(*words, selector, cwd=light, errors=False))
        assert [n["id"] for n in told["nodes"]] == ids


def test_nothing_selected_is_no_mistake(light: Path) -> None:
    for command in ("check", "plan", "run", "status", "logs"):
        assert "no node is selected" in alignc(command, "light.yaml", "-s", "state:failed", cwd=light)
    assert made(light) == []


def test_tables_need_all_their_nodes(light: Path) -> None:
    text = alignc("results", "light.yaml", "-s", "seed=0", cwd=light, code=2)
    assert "table main is left out: it shows score[seed=1], not selected" in text
    assert "no table has all its nodes selected" in text
    assert "win_rate" in alignc("results", "light.yaml", "-s", "table:*", cwd=light)


def test_drawings_and_json_keep_to_the_part(light: Path) -> None:
    told = json.loads(
        alignc("plan", "light.yaml", "-s", "score+ prompts", "--format", "json", cwd=light, errors=False)
    )
    assert [n["id"] for n in told["nodes"]] == ["prompts", "score[seed=0]", "score[seed=1]"]
    assert told["estimate"]["nodes"] == 3 and told["estimate"]["blocked"] == 2
    drawn = alignc("plan", "light.yaml", "-s", "right score", "--format", "mermaid", cwd=light, errors=False)
    assert drawn.count("-->") == 1 and "wrong" not in drawn
