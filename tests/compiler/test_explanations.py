"""Every code is explained, and the explanations are true: their examples are compiled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compiler.errors import CODES, Diagnostic, SpecError
from compiler.manual.explanations import PRELUDE, RIGHT, WRONG, explanations
from compiler.program import compile_spec
from tests.commands import alignc

# Joins cannot come out empty in a spec of today, and a cluster or a budget is asked for by `submit`.
WITHOUT_EXAMPLE = {"AC205", "AC502", "AC503", "AC504"}
SHOWN = sorted(CODES.keys() - WITHOUT_EXAMPLE)


def findings(folder: Path, examples: dict[str, str], which: str) -> tuple[Diagnostic, ...]:
    """What is found in an example, as explanations.py says how to read it."""
    for name, text in {"prelude.yaml": PRELUDE, **examples}.items():
        (folder / name).write_text(text)
    text = examples[which]
    head = "" if "experiment:" in text else "experiment: example\ninclude: [prelude.yaml]\n"
    (folder / "spec.yaml").write_text(head + text)
    try:
        return compile_spec(str(folder / "spec.yaml"), re.findall("^# --set (.*)$", text, re.M)).warnings
    except SpecError as error:
        return error.diagnostics


def test_every_code_is_explained_and_no_other() -> None:
    assert list(explanations()) == list(CODES)
    assert all(e.text and e.text.endswith(".") for e in explanations().values())
    assert {code for code, e in explanations().items() if not e.examples} == WITHOUT_EXAMPLE


@pytest.mark.parametrize("code", SHOWN)
def test_the_wrong_example_gives_its_code_and_no_other(code: str, tmp_path: Path) -> None:
    found = findings(tmp_path, explanations()[code].examples, WRONG)
    assert {d.code for d in found} == {code}, "\n".join(f"{d.code} {d.message}" for d in found)
    assert {d.severity for d in found} == {"warning" if code >= "AC6" else "error"}


@pytest.mark.parametrize("code", SHOWN)
def test_the_repaired_example_is_right(code: str, tmp_path: Path) -> None:
    found = findings(tmp_path, explanations()[code].examples, RIGHT)
    assert not found, "\n".join(f"{d.code} {d.message}" for d in found)


def test_the_command(tmp_path: Path) -> None:
    text = alignc("explain-error", "ac210", cwd=tmp_path)
    assert text.startswith("AC210: unknown axis value\n") and "    axes: {base: [mistrl]}" in text
    assert "did you mean `AC103`?" in alignc("explain-error", "AC1003", cwd=tmp_path, code=2)
    assert len(alignc("explain-error", cwd=tmp_path).splitlines()) == len(CODES)
