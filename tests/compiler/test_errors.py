"""Diagnostics as a user reads them: golden texts, one spec for each family of mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compiler.errors import CODES, SpecError, near, render
from compiler.program import Program, compile_spec
from tests.golden import GOLDEN, check_golden

SPECS = sorted(p.name for p in (GOLDEN / "errors").glob("*.yaml"))
WARNINGS = sorted(p.name for p in (GOLDEN / "warnings").glob("*.yaml"))


def compile_golden(name: str) -> Program:
    """Compile a golden spec; its lines `# --set A.B=C` stand for options."""
    return compile_spec(name, re.findall("^# --set (.*)$", Path(name).read_text(), re.M))


@pytest.mark.parametrize("name", SPECS)
def test_golden_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN / "errors")
    with pytest.raises(SpecError) as caught:
        compile_golden(name)
    text = str(caught.value).replace(str(Path.cwd()), "<here>")
    check_golden(f"errors/{Path(name).stem}.txt", text + "\n")


@pytest.mark.parametrize("name", WARNINGS)
def test_golden_warnings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN / "warnings")
    program = compile_golden(name)
    text = "\n".join(render(w, program.texts) for w in program.warnings)
    check_golden(f"warnings/{Path(name).stem}.txt", text + "\n")


def test_all_errors_have_a_known_code_and_stand_in_file_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN / "errors")
    for name in SPECS:
        with pytest.raises(SpecError) as caught:
            compile_golden(name)
        found = caught.value.diagnostics
        assert all(d.code in CODES for d in found)
        places = [(d.span.file, d.span.line) for d in found]
        assert places == sorted(places)


def test_an_error_in_an_override_points_at_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "experiment: s\nsources: {t: {kind: world}}\nstages: {p: {kind: prepare, source: t}}"
    )
    with pytest.raises(SpecError) as caught:
        compile_spec(str(tmp_path / "s.yaml"), ["stages.p.seed=many"])
    assert "--set stages.p.seed:1:1: error AC103" in str(caught.value)
    assert "stages.p.seed=many" in str(caught.value)


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "lib.yaml").write_text("sources: {t: {kind: wrld}}")
    (tmp_path / "s.yaml").write_text("experiment: s\ninclude: [lib.yaml]")
    with pytest.raises(SpecError) as caught:
        compile_spec(str(tmp_path / "s.yaml"))
    assert "lib.yaml:1:21: error AC103: unknown kind `wrld`" in str(caught.value)


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("epchs", ["epochs", "seed"], "did you mean `epochs`?"),
        ("x", ["a", "b"], "known: a, b"),
        ("x", [], "there are none"),
    ],
)
def test_near(word: str, known: list[str], hint: str) -> None:
    assert near(word, known) == hint
