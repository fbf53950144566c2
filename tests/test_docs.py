"""The documentation is true: its commands are run, its links lead somewhere, its reference is current."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from compiler.manual.explanations import error_reference
from compiler.manual.reference import language_reference
from compiler.manual.schema import profile_schema, spec_schema, to_text
from runtime.stage import stage_kinds
from tests.commands import alignc

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_language_reference_is_generated_from_the_models() -> None:
    assert (ROOT / "docs" / "language.md").read_text() == language_reference(), "run `make docs`"


def test_the_schemas_are_generated_from_the_models() -> None:
    kinds = stage_kinds().values()
    for name, schema in (("spec", spec_schema(kinds)), ("profile", profile_schema())):
        kept = (ROOT / "docs" / f"{name}.schema.json").read_text()
        assert kept == to_text(schema), "run `make docs`"


def test_the_page_of_error_codes_is_generated_from_the_explanations() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == error_reference(), "run `make docs`"


def squeezed(text: str) -> str:
    return " ".join(text.split())


# page -> its sessions, at least
SESSIONS = {
    "tutorial.md": 7,
    "leaving.md": 3,
    "selecting.md": 4,
    "editor.md": 4,
    "planning.md": 3,
    "preflight.md": 3,
}


def exit_code(words: list[str], shown: list[str]) -> int:
    """2 for errors, 1 for a difference or a refusal."""
    if any("error AC" in line or line.startswith("alignc:") for line in shown):
        return 2
    return int(words[0] == "diff" or any("REFUSED" in line for line in shown))


def run(command: str, cwd: Path, shown: list[str]) -> str:
    name, *words = shlex.split(command)
    if name == "alignc":
        return alignc(*words, cwd=cwd, code=exit_code(words, shown))
    return subprocess.run([name, *words], cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", SESSIONS)
def test_the_commands_of_a_page_print_what_it_shows(name: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / name).read_text()
    for file, text in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page, re.S):
        (tmp_path / file).write_text(text)
    sessions = re.findall(r"```console\n(.*?)```", page, re.S)
    assert len(sessions) >= SESSIONS[name]
    for session in sessions:
        for block in session.split("$ ")[1:]:
            command, *shown = block.strip().splitlines()
            printed = squeezed(run(command, tmp_path, shown))
            for line in shown:
                assert squeezed(line) in printed, f"{command}\ndid not print: {line}\nbut: {printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("spec", sorted(ROOT.glob("specs/*.yaml")), ids=lambda p: p.name)
def test_shipped_specs_are_right(spec: Path, tmp_path: Path) -> None:
    """Files that a user has to give are the only thing that may be missing."""
    from compiler.errors import SpecError
    from compiler.program import compile_spec

    try:
        assert not compile_spec(str(spec)).warnings
    except SpecError as error:
        assert {d.code for d in error.diagnostics} == {"AC501"}, str(error)
