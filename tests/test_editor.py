"""What an editor shows: a real yaml-language-server reads the schema and our specs.

It is looked for as `yaml-language-server`, or where ALIGNC_YAML_SERVER says:
npm install --global yaml-language-server
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.manual.schema import profile_schema, spec_schema, to_text
from runtime.stage import stage_kinds
from tests.compiler.specs import STUDY
from tests.language_server import LanguageServer

ROOT = Path(__file__).parent.parent
LINE = "# yaml-language-server: $schema=.alignc/spec.schema.json\n"
HEAD = LINE + "experiment: x\n"
STAGE = HEAD + "stages:\n  tune:\n    kind: sft\n    model: tiny\n    {}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    program = shutil.which(os.environ.get("ALIGNC_YAML_SERVER", "yaml-language-server"))
    if program is None:
        pytest.skip(
            "no yaml-language-server: npm install --global yaml-language-server, or ALIGNC_YAML_SERVER"
        )
    folder = tmp_path_factory.mktemp("editor")
    (folder / ".alignc").mkdir()
    (folder / ".alignc" / "spec.schema.json").write_text(to_text(spec_schema(stage_kinds().values())))
    (folder / "profile.schema.json").write_text(to_text(profile_schema()))
    with LanguageServer(program, folder) as running:
        yield running


@pytest.mark.parametrize("name", ["quickstart.yaml", "smollm2-alpacaeval.yaml"])
def test_nothing_is_marked_in_a_shipped_spec(server: LanguageServer, name: str) -> None:
    assert server.problems(LINE + (ROOT / "specs" / name).read_text().partition("\n")[2]) == []


def test_nothing_is_marked_in_the_study(server: LanguageServer) -> None:
    assert server.problems(LINE + STUDY) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat: 1e-3", "Property learning_rat is not allowed."),
        ("schedule: cosin", 'Valid values: "constant", "linear", "cosine"'),
        ("learning_rate: fast", "Expected a number or `${axis}`."),
        ("learning_rate: [1e-3, 1e-4]", "Expected one of number, string."),
        ("epochs: 0", "below the minimum of 1"),
        ("resources: {gpu: 1}", "Property gpu is not allowed."),
        ("sweep: {schedule: [linear, cosin]}", "Value is not accepted."),
    ],
)
def test_a_mistake_is_marked_on_its_line(server: LanguageServer, line: str, message: str) -> None:
    marked = server.problems(STAGE.format(line))
    assert [m for number, m in marked if number == 7 and message in m], marked


def test_what_is_missing_is_marked(server: LanguageServer) -> None:
    marked = server.problems(STAGE.format("epochs: 1\n    sweep: {learning_rate: [1e-3]}"))
    assert marked == [(4, 'Missing property "data".')]


@pytest.mark.parametrize(
    ("text", "offered", "not_offered"),
    [
        (HEAD + "|", "stages", "learning_rate"),
        (HEAD + "stages:\n  tune:\n    kind: |", "sft", "learning_rate"),
        (STAGE.format("lea|"), "learning_rate", "beta"),
        (STAGE.format("schedule: |"), "cosine", "true"),
        (STAGE.format("chat: |"), "human_assistant", "true"),
        (STAGE.format("sweep:\n      |"), "learning_rate", "kind"),
        (STAGE.format("resources:\n      |"), "gpus", "epochs"),
        (HEAD + "llms:\n  judge:\n    provider: local\n    |", "batch_size", "api_key_env"),
        (HEAD + "sources:\n  t:\n    kind: world\n    what: |", "documents", "jsonl"),
    ],
)
def test_keys_and_values_are_offered(
    server: LanguageServer, text: str, offered: str, not_offered: str
) -> None:
    found = server.completions(text)
    assert offered in found and not_offered not in found


def test_a_new_stage_is_offered_with_what_it_requires(server: LanguageServer) -> None:
    found = server.completions(HEAD + "stages:\n  tune:\n    |\n")
    assert found["dpo"]["insertText"].startswith("kind: dpo\nepochs: ${1:epochs}\n")


def test_a_key_is_inserted_with_its_colon(server: LanguageServer) -> None:
    found = server.completions(STAGE.format("lea|"))
    assert found["learning_rate"]["insertText"] == "learning_rate: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STAGE.format("learn|ing_rate: 1e-3"), "peak learning rate\n\nRequired. Affects the result."),
        (STAGE.format("da|ta: answers"), "what to imitate\n\nTakes Demonstrations or Completions. Required."),
        (STAGE.format("micro_|batch: 4"), "Affects the speed only."),
        (STAGE.format("resources: {gp|us: 1}"), "GPUs"),
        (HEAD + "stages:\n  tune:\n    ki|nd: sft\n", "Loss on the completion"),
        (
            HEAD + "llms:\n  judge: {provider: simulated, error_|rate: 0.1}\n",
            "share of otherwise right answers",
        ),
        (HEAD.replace("experiment", "exper|iment"), "the name of the experiment"),
    ],
)
def test_a_key_explains_itself(server: LanguageServer, text: str, words: str) -> None:
    assert words in server.hover(text)


def test_profiles_have_a_schema(server: LanguageServer) -> None:
    line = "# yaml-language-server: $schema=profile.schema.json\n"
    assert server.problems(line + (ROOT / "specs/clusters/example.yaml").read_text().partition("\n")[2]) == []
    assert server.problems(line + "acount: me\n") == [(2, "Property acount is not allowed.")]
