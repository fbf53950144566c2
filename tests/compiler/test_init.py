"""`alignc init`: each starter, by flags and by answers on a terminal, is a right spec."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import jsonschema
import pytest

from compiler.errors import SpecError
from compiler.frontend.source import parse
from compiler.manual.starter import QUESTIONS, STARTERS
from compiler.program import compile_spec
from runtime.templates import names
from tests.commands import ALIGNC, alignc

FLAGS = {
    "data": ["--data", "rows/chats & co.jsonl"],
    "model": ["--model", "models/base"],
    "judge_url": ["--judge-url", 'https://gateway.example/v1?a="b"&c=#d'],
    "judge_model": ["--judge-model", "judge: 1.5"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the flags name."""
    (tmp_path / "rows").mkdir()
    row = {"prompt": "Say hello.", "completion": "Hello."}
    (tmp_path / "rows" / "chats & co.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "models" / "base" / "config.json").write_text("{}")
    return tmp_path


def flags(starter: str) -> list[str]:
    return [word for name in STARTERS[starter].asks for word in FLAGS[name]]


def answer(folder: Path, *lines: str, words: tuple[str, ...] = ()) -> str:
    """Run `alignc init` on a terminal, and answer its questions; returns what the terminal showed."""
    mine, its = pty.openpty()
    command = [*ALIGNC, "init", *words]
    with subprocess.Popen(command, cwd=folder, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        os.write(mine, "".join(f"{line}\n" for line in lines).encode())
        shown = b""
        while True:
            try:
                shown += os.read(mine, 4096)
            except OSError:  # the other end is closed
                break
        os.close(mine)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def test_every_starter_has_a_template() -> None:
    assert sorted(STARTERS) == [name.removesuffix(".yaml") for name in names("starter")]


@pytest.mark.parametrize("starter", STARTERS)
def test_a_starter_by_flags_is_right_at_once(starter: str, folder: Path) -> None:
    told = alignc("init", "new/my study.yaml", "--template", starter, *flags(starter), cwd=folder)
    assert "alignc check 'new/my study.yaml'" in told
    assert "my study.yaml: right;" in alignc("check", "new/my study.yaml", cwd=folder)
    program = compile_spec(str(folder / "new" / "my study.yaml"))
    assert program.spec.experiment == "my-study" and program.tables
    if "judge_url" in STARTERS[starter].asks:
        judge = program.spec.declarations["judge"].value
        assert (judge.base_url, judge.model) == (FLAGS["judge_url"][1], FLAGS["judge_model"][1])


@pytest.mark.parametrize("starter", STARTERS)
def test_a_starter_by_answers_is_the_same(starter: str, folder: Path) -> None:
    alignc("init", "flags/study.yaml", "--template", starter, *flags(starter), cwd=folder)
    answers = [FLAGS[name][1] for name in STARTERS[starter].asks]
    shown = answer(folder, starter, *answers, words=("answers/study.yaml",))
    assert "Which starter?" in shown and STARTERS[starter].about in shown
    assert all(QUESTIONS[name][0] in shown for name in STARTERS[starter].asks)
    by_flags, by_answers = ((folder / f / "study.yaml").read_text() for f in ("flags", "answers"))
    assert by_flags.replace("flags/", "answers/") == by_answers


def test_what_flags_say_is_not_asked(folder: Path) -> None:
    shown = answer(folder, "", words=("--template", "evaluate-only", *flags("evaluate-only")[2:]))
    assert QUESTIONS["data"][0] in shown and QUESTIONS["model"][0] not in shown
    assert 'path: "data.jsonl"' in (folder / "study.yaml").read_text()


@pytest.mark.parametrize("starter", [name for name in STARTERS if STARTERS[name].asks])
def test_files_that_are_not_there_are_all_that_is_wrong(starter: str, tmp_path: Path) -> None:
    alignc("init", "--template", starter, cwd=tmp_path)
    with pytest.raises(SpecError) as caught:
        compile_spec(str(tmp_path / "study.yaml"))
    assert {d.code for d in caught.value.diagnostics} == {"AC501"}
    told = alignc("check", "study.yaml", cwd=tmp_path, code=2)
    assert f"{tmp_path}/data.jsonl is not there" in told and f"{tmp_path}/model is not there" in told


@pytest.mark.parametrize("starter", STARTERS)
def test_the_first_line_leads_to_a_schema_that_the_spec_meets(starter: str, tmp_path: Path) -> None:
    alignc("init", "a/study.yaml", "--template", starter, cwd=tmp_path)
    text = (tmp_path / "a" / "study.yaml").read_text()
    first, _, _ = text.partition("\n")
    schema = tmp_path / "a" / first.removeprefix("# yaml-language-server: $schema=")
    tree, problems = parse(text, "study.yaml")
    assert tree is not None and not problems
    jsonschema.validate(tree.plain(), json.loads(schema.read_text()))


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("mine")
    told = alignc("init", "study.yaml", cwd=tmp_path, code=2)
    assert "study.yaml is there already" in told and "--force" in told
    assert (tmp_path / "study.yaml").read_text() == "mine"
    alignc("init", "study.yaml", "--force", cwd=tmp_path)
    assert "experiment: study" in (tmp_path / "study.yaml").read_text()


def test_a_flag_that_the_starter_has_no_use_for(tmp_path: Path) -> None:
    told = alignc("init", "--template", "quickstart", "--judge-url", "http://x", cwd=tmp_path, code=2)
    assert "the starter quickstart has no use for --judge-url" in told


@pytest.mark.parametrize(
    ("file", "name"), [("study.yaml", "study"), ("2026 runs.yaml", "study-2026-runs"), ("...yaml", "study")]
)
def test_the_experiment_is_named_after_the_file(file: str, name: str, tmp_path: Path) -> None:
    alignc("init", file, cwd=tmp_path)
    assert compile_spec(str(tmp_path / file)).spec.experiment == name
