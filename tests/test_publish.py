"""`alignc publish`: another machine reuses a bundle, or makes the same bytes again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import alignc
from tests.specs import PICK

TASKS = """
sources:
  listed: {kind: jsonl, path: data/more.jsonl}
stages:
  read: {kind: prepare, source: listed}
  wrote: {kind: demonstrate, prompts: read, teacher: strong}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a choice, a file of data, an include and tables, carried out."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "specs").mkdir()
    (folder / "specs/pick.yaml").write_text(
        PICK.replace("experiment: pick", "experiment: pick\ninclude: [more.yaml]")
    )
    (folder / "specs/more.yaml").write_text(TASKS)
    (folder / "specs/data").mkdir()
    (folder / "specs/data/more.jsonl").write_text('{"prompt": "Please reverse 4821"}\n')
    alignc("run", "specs/pick.yaml", cwd=folder)
    alignc("results", "specs/pick.yaml", "--out", "tables", cwd=folder)
    return folder


def tables(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix in (".md", ".csv", ".tex", ".png")
    }


def elsewhere(bundle: Path, tmp_path: Path) -> Path:
    """The bundle on another machine: in another place, and the first one gone."""
    return Path(shutil.move(bundle, tmp_path / "there"))


@pytest.mark.parametrize("held", ["nothing", "data"])
def test_a_bundle_gives_the_same_tables_elsewhere(study: Path, tmp_path: Path, held: str) -> None:
    told = alignc("publish", "specs/pick.yaml", tmp_path / "bundle", "--with", held, cwd=study)
    assert f"wrote {tmp_path / 'bundle'}" in told
    there = elsewhere(tmp_path / "bundle", tmp_path)
    assert tables(there / "results") == tables(study / "tables")
    if held == "nothing":
        assert "specs/data/more.jsonl" in (there / "README.md").read_text()
        shutil.copytree(study / "specs/data", there / "specs/data")
    words = ("specs/pick.yaml", "--store", "store")
    plan = alignc("plan", *words, cwd=there)
    assert ("\n0 to run" in plan) == (held == "data"), plan
    alignc("run", *words, cwd=there)
    alignc("results", *words, "--out", "again", cwd=there)
    assert tables(there / "again") == tables(study / "tables")


def test_the_lock_names_versions_and_keys_but_no_host(study: Path, tmp_path: Path) -> None:
    alignc("publish", "specs/pick.yaml", tmp_path / "bundle", cwd=study)
    lock = json.loads((tmp_path / "bundle/lock.json").read_text())
    assert lock["data"] == ["specs/data/more.jsonl"]
    assert all(node["made"] and len(node["key"]) == 40 for node in lock["nodes"])
    assert lock["environments"] and all("host" not in told for told in lock["environments"])
    held = {
        folder.name for folder in (tmp_path / "bundle/store").iterdir() if not folder.name.startswith(".")
    }
    assert held == {"evaluate", "select"}  # scores and choices
    manifests = list((tmp_path / "bundle/manifests").rglob("*.json"))
    assert len(manifests) == len({node["key"] for node in lock["nodes"]})


def test_a_changed_artifact_is_not_published(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    scores = next((tmp_path / "study").rglob("evaluate/*/metrics.json"))
    scores.write_text(scores.read_text().replace("1", "2", 1))
    told = alignc("publish", "specs/pick.yaml", tmp_path / "bundle", cwd=tmp_path / "study", code=2)
    assert "has changed since it was sealed" in told
    assert not (tmp_path / "bundle").exists()


def test_what_cannot_be_published_is_told(study: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    told = alignc("publish", "specs/pick.yaml", tmp_path / "there", cwd=study, code=2)
    assert "is there already" in told
    told = alignc(
        "publish", "specs/pick.yaml", tmp_path / "new", "--store", tmp_path / "empty", cwd=study, code=2
    )
    assert "nothing of this study is made yet" in told
