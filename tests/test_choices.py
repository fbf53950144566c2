"""Change pruning: what comes after a choice is made again only where the choice falls on something else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.commands import alignc, artifacts, tables
from tests.specs import PICK

ARMS = "[poor, fair]"
AFTER = ("labels", "again", "more", "chosen")  # each once for each of two seeds
NODES = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pick")
    (folder / "pick.yaml").write_text(PICK)
    assert f"pick: {NODES} nodes to run, 0 reused" in alignc("run", "pick.yaml", "--store", "s", cwd=folder)
    return folder


@pytest.fixture
def pick(made: Path, tmp_path: Path) -> Path:
    """The experiment after its first run, in which `fair` was chosen for both seeds."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    return folder


def arms(folder: Path, *teachers: str) -> None:
    (folder / "pick.yaml").write_text(PICK.replace(ARMS, f"[{', '.join(teachers)}]"))


def run(folder: Path, *words: str) -> str:
    return alignc("run", "pick.yaml", "--store", "s", *words, cwd=folder)


def plan(folder: Path, *words: str) -> dict[str, Any]:
    """Each node's action and reason."""
    told = json.loads(
        alignc("plan", "pick.yaml", "--store", "s", "--format", "json", *words, cwd=folder, errors=False)
    )
    return {node["id"]: (node["action"], node["why"]) for node in told["nodes"]}


def after(folder: Path) -> dict[str, bytes]:
    """The manifests of what was made after the choices: path -> content."""
    found = {p: json.loads(p.read_text()) for p in (folder / "s").glob("[!.]*/*/manifest.json")}
    return {str(p): p.read_bytes() for p, told in found.items() if told["id"].partition("[")[0] in AFTER}


def test_an_arm_that_does_not_win_re_runs_nothing_after_the_choice(pick: Path) -> None:
    before = after(pick)
    arms(pick, "poor", "fair", "bad")
    actions = plan(pick)
    cause = "teacher [poor, fair] -> [poor, fair, bad], pick.yaml:16"
    assert actions["guess[seed=0,teacher=bad]"] == ("run", "not made yet")
    assert actions["guess[seed=0,teacher=fair]"][0] == "reuse"
    assert actions["best[seed=1]"] == ("rerun", cause)
    for stage in AFTER:
        assert actions[f"{stage}[seed=1]"] == ("rerun", f"unless best falls as before: {cause}")
    text = run(pick)
    assert "pick: 14 nodes to run, 10 reused" in text
    assert len(re.findall(r"reused (\S+):", text)) == 8 and "reused more[seed=0]:" in text
    assert "made more" not in text and "made best[seed=0]" in text
    assert after(pick) == before
    assert {action for action, _ in plan(pick).values()} == {"reuse"}


def test_an_arm_that_wins_re_runs_what_comes_after(pick: Path) -> None:
    arms(pick, "poor", "fair", "good")
    assert plan(pick)["more[seed=0]"][1].startswith("unless best falls as before: ")
    text = run(pick)
    assert "] reused" not in text and "made more[seed=0]" in text
    assert len(after(pick)) == 16, "the eight of before stay, for whoever goes back"
    chosen = json.loads(
        next((pick / "s").glob(f"label/{_key(pick, 'labels[seed=0]')}/manifest.json")).read_text()
    )
    (choice,) = chosen["inputs"]["b"]
    assert choice["kind"] == "demonstrate", "what was chosen stands in the recipe, and not the choice"
    (pick / "pick.yaml").write_text(PICK)
    assert {action for action, _ in plan(pick).values()} == {"reuse"}


def _key(folder: Path, id_: str) -> str:
    told = json.loads(
        alignc("plan", "pick.yaml", "--store", "s", "--format", "json", cwd=folder, errors=False)
    )
    key: str = next(node["key"] for node in told["nodes"] if node["id"] == id_)
    return key


def test_results_are_those_of_a_store_that_never_chose_otherwise(pick: Path) -> None:
    for teachers in (("poor", "fair", "bad"), ("poor", "fair", "bad", "good"), ("poor", "fair", "worst")):
        arms(pick, *teachers)
        run(pick)
    alignc("run", "pick.yaml", "--store", "fresh", cwd=pick)
    assert tables("pick.yaml", "s", pick) == tables("pick.yaml", "fresh", pick)
    assert artifacts(pick / "fresh").items() <= artifacts(pick / "s").items()


def test_what_was_made_is_remembered_where_the_choice_was_made_on_its_own(pick: Path) -> None:
    """The second run finds everything done; the third plan still knows that it runs again, and why."""
    arms(pick, "poor", "fair", "bad")
    run(pick, "--select", "+best")
    assert "0 nodes to run" in run(pick)
    arms(pick, "poor", "fair", "bad", "worst")
    actions = plan(pick)
    assert {actions[f"{stage}[seed=0]"][0] for stage in AFTER} == {"rerun"}
    assert actions["more[seed=0]"][1].startswith("unless best falls as before: teacher [poor, fair, bad] -> ")


def test_a_choice_among_candidates_that_are_all_new_spares_nothing(pick: Path) -> None:
    words = ("--set", "stages.guess.temperature=0.5")
    actions = plan(pick, *words)
    change = "temperature 1.0 -> 0.5, --set stages.guess.temperature:1"
    assert {actions[f"{stage}[seed=0]"] for stage in ("best", *AFTER)} == {("rerun", change)}
    assert "] reused" not in run(pick, *words)


def test_a_choice_whose_winner_is_gone_spares_nothing(pick: Path) -> None:
    arms(pick, "poor", "bad")
    change = "teacher [poor, fair] -> [poor, bad], pick.yaml:16"
    assert plan(pick)["labels[seed=0]"] == ("rerun", change)
    assert "] reused" not in run(pick)


def test_a_change_after_the_choice_is_not_spared_by_it(pick: Path) -> None:
    arms(pick, "poor", "fair", "bad")
    words = ("--set", "stages.again.limit=10")
    actions = plan(pick, *words)
    assert actions["labels[seed=0]"][1].startswith("unless best falls as before: ")
    assert actions["again[seed=0]"][1].startswith("limit 20 -> 10, --set stages.again.limit:1")
    assert actions["more[seed=0]"][1].startswith("limit 20 -> 10, --set stages.again.limit:1")
    text = run(pick, *words)
    assert "reused labels[seed=0]" in text and "made again[seed=0]" in text and "made more[seed=0]" in text


def test_a_choice_of_choices(tmp_path: Path) -> None:
    """The best of each seed, and the best of these: what follows is spared twice over."""
    text = PICK.replace(
        "  labels:",
        "  best_score: {kind: evaluate, completions: best}\n"
        "  final: {kind: select, from: best, by: best_score.accuracy, over: [seed]}\n  labels:",
    )
    text = text.replace("source: best", "source: final").replace("b: best", "b: final")
    (tmp_path / "pick.yaml").write_text(text)
    run(tmp_path)
    (tmp_path / "pick.yaml").write_text(text.replace(ARMS, "[poor, fair, bad]"))
    assert plan(tmp_path)["more"][1].startswith("unless best falls as before: teacher ")
    told = run(tmp_path)
    assert "made best[seed=1]" in told and "reused best_score[seed=1]" in told
    assert "made final" not in told and "reused more" in told


def test_a_choice_that_is_lost_is_made_again_and_nothing_else(pick: Path) -> None:
    before = artifacts(pick / "s")
    shutil.rmtree(pick / "s" / "select")
    text = run(pick)
    assert "10 nodes to run, 10 reused" in text
    assert artifacts(pick / "s") == before


def test_a_selection_after_a_choice(pick: Path) -> None:
    arms(pick, "poor", "fair", "good")
    told = alignc("run", "pick.yaml", "--store", "s", "-s", "labels", cwd=pick, code=1)
    assert "needs best[seed=0], which is not selected; `--select +labels` takes it in" in told
    text = run(pick, "-s", "+labels[seed=0]")
    assert "made labels[seed=0]" in text and "seed=1" not in text
    actions = plan(pick)
    assert actions["labels[seed=0]"][0] == "reuse" and actions["labels[seed=1]"][0] == "rerun"


def test_exported_scripts_spare_too(pick: Path) -> None:
    import subprocess

    before = after(pick)
    arms(pick, "poor", "fair", "bad")
    alignc("export", "pick.yaml", "out", "--store", "s", "--missing", cwd=pick)
    subprocess.run([pick / "out" / "run.sh"], check=True, capture_output=True)
    assert after(pick) == before
    assert {action for action, _ in plan(pick).values()} == {"reuse"}
