"""Findings for other programs: the JSON document and the SARIF log of `alignc check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import CODES
from tests.commands import alignc

SPEC = """\
experiment: e
sources: {t: {kind: world}}
stages:
  p: {kind: prepare, source: t, limit: 5}
  q: {kind: prepare, source: t, limit: many}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my specs").mkdir()
    (tmp_path / "my specs" / "a.yaml").write_text(SPEC)
    return tmp_path


def document(form: str, folder: Path, *words: str, code: int = 0) -> Any:
    return json.loads(alignc("check", "my specs/a.yaml", "--format", form, *words, cwd=folder, code=code))


def test_json(folder: Path) -> None:
    told = document("json", folder, "--set", "stages.p.limit=none", code=2)
    assert (told["schema"], told["errors"], told["warnings"]) == ("alignc.diagnostics/1", 2, 0)
    override, written = told["diagnostics"]
    assert override["file"] == "--set stages.p.limit"
    assert override["notes"] == [
        {"text": "overrides", "file": "my specs/a.yaml", "line": 4, "column": 40, "end_column": 41}
    ]
    place = {"file": "my specs/a.yaml", "line": 5, "column": 40, "end_column": 44}
    assert place.items() <= written.items()
    assert (written["code"], written["severity"], written["title"]) == ("AC103", "error", CODES["AC103"])


def test_json_of_a_right_spec_with_a_warning(folder: Path) -> None:
    words = ("--set", "stages.q.limit=1", "--set", "axes.seed=[0]")
    told = document("json", folder, *words)
    assert (told["errors"], told["warnings"]) == (0, 1)
    assert told["diagnostics"][0]["code"] == "AC603"


def test_sarif(folder: Path) -> None:
    log = document("sarif", folder, "--set", "stages.p.limit=none", "--set", "axes.seed=0", code=2)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "alignc" and [r["id"] for r in driver["rules"]] == ["AC103", "AC104"]
    assert "```yaml" in driver["rules"][0]["help"]["markdown"]
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] == "error" and result["message"]["text"]
    new, override, written = run["results"]
    # What stands on the command line alone is shown at the top of the spec, as a scanner needs a file.
    assert new["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": "--set axes.seed"}]
    assert new["locations"][0]["physicalLocation"]["region"]["startLine"] == 1
    assert override["locations"][0]["physicalLocation"]["region"]["startLine"] == 4
    assert override["relatedLocations"][0]["message"] == {"text": "overrides"}
    assert written["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "my%20specs/a.yaml"},
                "region": {"startLine": 5, "startColumn": 40, "endLine": 5, "endColumn": 44},
            }
        }
    ]


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_a_missing_spec_is_a_finding_too(form: str, tmp_path: Path) -> None:
    told = json.loads(alignc("check", "gone.yaml", "--format", form, cwd=tmp_path, code=2))
    text = json.dumps(told)
    assert "AC001" in text and "cannot read gone.yaml" in text
