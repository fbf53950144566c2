"""Diffs: what two specs, or a spec and itself at a git revision, differ in as experiments."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from compiler.planning.diff import Difference, compare, to_json, to_text
from tests.commands import alignc
from tests.compiler.specs import STUDY, compile_text
from tests.golden import check_golden


def difference(folder: Path, new: str, *overrides: str) -> Difference:
    a = compile_text(folder, STUDY, name="a.yaml")
    return compare(a, compile_text(folder, new, *overrides, name="b.yaml"))


# What counts as the same experiment: edit, its replacement, what is told of it.
SAME: list[tuple[str, str, str, list[str]]] = [
    ("nothing", "", "", []),
    ("a default written out", "epochs: 6", "weight_decay: 0\n    epochs: 6", []),
    (
        "resources",
        "epochs: 6\n",
        "epochs: 6\n    resources: {minutes: 90, memory_gb: 8}\n",
        ["resources.minutes"],
    ),
    ("speed", "epochs: 6\n", "epochs: 6\n    micro_batch: 2\n", ["micro_batch none -> 2"]),
    ("a note", "epochs: 6\n", "epochs: 6\n    note: six\n", ["note none -> six"]),
    ("a caption", "Does feedback help?", "Well?", ["tables.main: another caption"]),
    ("a budget", "tables:", "budget: {gpu_hours: 3}\ntables:", ["budget.gpu_hours none -> 3"]),
    ("a cluster", "tables:", "cluster: moon\ntables:", ["cluster none -> moon"]),
    ("a stage's name", "answers", "texts", []),
    ("a declaration's name", "weak", "feeble", []),
]


@pytest.mark.parametrize(("old", "new", "aside"), [c[1:] for c in SAME], ids=[c[0] for c in SAME])
def test_what_changes_no_experiment(tmp_path: Path, old: str, new: str, aside: list[str]) -> None:
    found = difference(tmp_path, STUDY.replace(old, new))
    assert found.same and found.kept == len(found.b.keys)
    assert len(found.aside) == len(aside)
    assert all(wanted in line for wanted, line in zip(aside, found.aside, strict=True))


def test_names_alone(tmp_path: Path) -> None:
    found = difference(tmp_path, STUDY.replace("answers", "texts"))
    assert found.renamed == (("answers", "texts"),)
    found = difference(tmp_path, STUDY.replace("seed", "draw").replace("draw: $", "seed: $"))
    assert ("best[seed=0]", "best[draw=0]") in found.renamed
    assert found.tables == (
        "main: average over `seed` only in the first",
        "main: average over `draw` only in the second",
    )


def test_nodes_on_one_side_only(tmp_path: Path) -> None:
    found = difference(tmp_path, STUDY.replace("seed: [0, 1]", "seed: [1, 2]"))
    assert {n.shown_axes()["seed"] for n in found.only_a} == {0}
    assert {n.shown_axes()["seed"] for n in found.only_b} == {2}
    assert not found.changed and found.tables == ("main: 4 of 4 cells stand on other work",)
    extra = STUDY.replace(
        "tables:", "  again: {kind: demonstrate, prompts: prompts.sft, teacher: weak}\ntables:"
    )
    found = difference(tmp_path, extra)
    assert found.same and found.renamed == (("answers", "again"),)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("{SFT: sft_test, ", "{SFT: sft_test, Again: sft_test, ", ["row `Again` only in the second"]),
        ("columns: [win_rate, accuracy]", "columns: [win_rate]", ["column `accuracy` only in the first"]),
        ("    compare: {SFT + feedback: SFT}\n", "", ["comparison `SFT + feedback - SFT` only in the first"]),
        ("{SFT: sft_test, ", "{SFT: rlaif_test, ", ["2 of 4 cells stand on other work"]),
        ("  main:", "  second:", ["only in the first", "only in the second"]),
    ],
)
def test_tables(tmp_path: Path, old: str, new: str, lines: list[str]) -> None:
    assert old in STUDY
    assert [t.partition(": ")[2] for t in difference(tmp_path, STUDY.replace(old, new)).tables] == lines


CHANGED = (
    STUDY.replace("epochs: 6", "epochs: 8\n    resources: {cpus: 2}")
    .replace("5e-4]", "5e-4, 3e-3]")
    .replace("error_rate: 0.05", "error_rate: 0.1")
    .replace("answers", "texts")
    .replace(
        "  reference: {",
        "  unused: {kind: demonstrate, prompts: prompts.test, teacher: critic}\n  reference: {",
    )
)


def test_golden_text_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = difference(Path(), CHANGED)
    check_golden("diff/study.text", to_text(found) + "\n")
    check_golden("diff/study.json", to_json(found) + "\n")


# ---------------------------------------------------------------- the command


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


SPEC = """\
experiment: small
include: lib.yaml
llms: {weak: {provider: simulated}}
stages:
  prompts: {kind: prepare, source: tasks}
  answers: {kind: demonstrate, prompts: prompts, teacher: weak}
  scores: {kind: evaluate, prompts: prompts, completions: answers}
  others: {kind: prepare, source: ignored}
"""
FILES = {
    "specs/a.yaml": SPEC,
    "specs/lib.yaml": "sources:\n"
    "  tasks: {kind: jsonl, path: ../rows.jsonl}\n"
    "  ignored: {kind: jsonl, path: ../big/rows.jsonl}\n",
    "rows.jsonl": '{"prompt": "a"}\n' * 9,
    "big/rows.jsonl": '{"prompt": "b"}\n' * 9,
    ".gitignore": "big\n",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A spec in a folder, its sources in an included file, rows that git keeps and rows that it ignores."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_against_a_revision(repository: Path) -> None:
    diff = ("diff", "specs/a.yaml", "--against", "HEAD")
    assert ": 4 the same work" in alignc(*diff, cwd=repository)
    edit(repository / "specs" / "a.yaml", "teacher: weak", "teacher: weak, seed: 1")
    edit(repository / "specs" / "lib.yaml", "big/rows.jsonl", "big/rows.jsonl, prompt: text")
    text = alignc(*diff, cwd=repository, code=1)
    assert text.startswith(
        "HEAD:specs/a.yaml (4 nodes) -> specs/a.yaml (4 nodes): 1 the same work, 3 other work"
    )
    assert "seed 0 -> 1, specs/a.yaml:6; 1 stage after it (1 node)" in text
    assert "sources.ignored.prompt prompt -> text, specs/lib.yaml:3" in text
    edit(repository / "rows.jsonl", '"a"', '"c"')
    text = alignc(*diff, cwd=repository, code=1)
    assert "the files of sources.tasks have other content, specs/lib.yaml:2; 2 stages after it" in text
    git(repository, "commit", "-qam", "second")
    assert ": 4 the same work" in alignc(*diff, cwd=repository)
    words = ("diff", "a.yaml", "--against", "HEAD~1", "--format", "json")
    told = json.loads(alignc(*words, cwd=repository / "specs", code=1))
    assert told["same"] is False and {c["field"] for c in told["causes"]} == {"content", "seed", "prompt"}


def test_git_is_left_as_it_is(repository: Path) -> None:
    edit(repository / "specs" / "a.yaml", "teacher: weak", "teacher: weak, seed: 1")
    index = (repository / ".git" / "index").read_bytes()
    alignc("diff", "a.yaml", "--against", "HEAD", cwd=repository / "specs", code=1)
    assert (repository / ".git" / "index").read_bytes() == index
    assert sorted(p.name for p in (repository / "big").iterdir()) == ["rows.jsonl"]


def test_errors_at_a_revision_name_it(repository: Path) -> None:
    spec = repository / "specs" / "a.yaml"
    edit(spec, "teacher: weak", "teacher: week")
    git(repository, "commit", "-qam", "second")
    edit(spec, "teacher: week", "teacher: weak")
    text = alignc("diff", "specs/a.yaml", "--against", "HEAD", cwd=repository, code=2)
    assert "HEAD:specs/a.yaml:6:59: error AC301" in text and "    6 |   answers: {" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("specs/a.yaml", "--against", "nothing"), "git rev-parse: Needed a single revision"),
        (("specs/new.yaml", "--against", "HEAD"), "specs/new.yaml does not stand in the repository at HEAD"),
        (("specs/a.yaml",), "name a second spec, or a git revision with --against"),
        (("specs/a.yaml", "specs/a.yaml", "--against", "HEAD"), "give a second spec or --against, not both"),
    ],
)
def test_what_is_refused(repository: Path, words: tuple[str, ...], message: str) -> None:
    assert f"alignc: {message}" in alignc("diff", *words, cwd=repository, code=2)


def test_outside_of_git(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(STUDY)
    text = alignc(
        "diff",
        "a.yaml",
        "--against",
        "HEAD",
        cwd=tmp_path,
        code=2,
        GIT_CEILING_DIRECTORIES=str(tmp_path.parent),
    )
    assert "alignc: git rev-parse: not a git repository" in text


def test_overrides_of_each_side(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(STUDY)
    words = ("diff", "a.yaml", "a.yaml", "--set", "stages.rlaif.beta=0.3")
    assert ": 58 the same work" in alignc(*words, cwd=tmp_path)
    text = alignc(*words, "--set-b", "stages.rlaif.beta=0.4", cwd=tmp_path, code=1)
    assert "beta 0.3 -> 0.4, --set stages.rlaif.beta:1; 2 stages after it (4 nodes)" in text
    assert "1 stage" not in alignc(
        "diff", "a.yaml", "--set-a", "stages.tune.seed=3", "--set-b", "stages.tune.seed=3", cwd=tmp_path
    )
