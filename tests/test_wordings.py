"""Wordings: how a judge is asked and its replies are read; templates of ours, one's own, and AlpacaEval's."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from compiler.errors import SpecError
from runtime.declare import Wording
from runtime.files import read_rows
from runtime.job import JobError
from runtime.judging import coin
from runtime.llms.base import Message
from runtime.parsers import LogprobsParser, Parser
from runtime.templates import names
from runtime.wordings import Pair, open_wording, template
from tests.compiler.specs import compile_text, node_ids


def parser(**fields: Any) -> Any:
    return TypeAdapter[Any](Parser).validate_python(fields)


def wording(**fields: Any) -> Any:
    return open_wording(TypeAdapter[Any](Wording).validate_python(fields))


# ---------------------------------------------------------------- parsers

WHOLE = {"kind": "whole_reply"}
LETTER = {"kind": "whole_reply", "first": "A", "second": "B", "tie": "C"}
CASED = {"kind": "whole_reply", "first": "m", "second": "M", "tie": None}
LAST = {"kind": "last_line"}
RANKING = {"kind": "ranking"}
JSON = {"kind": "json"}
BOOL = {"kind": "json", "field": "first_is_better", "first": True, "second": False, "tie": None}
REGEX = {"kind": "regex", "first": r"(?:^|\n) ?Output \(a\)", "second": r"(?:^|\n) ?Output \(b\)"}
SCORES = {"kind": "scores"}
RANKED = "[{'model': 'model_1', 'rank': %s}, {'model': 'model_2', 'rank': %s}]"


@pytest.mark.parametrize(
    ("fields", "reply", "verdict"),
    [
        (WHOLE, "Output (a)", 1.0), (WHOLE, " output (B).\n", 2.0), (WHOLE, "**Output (a)**", 1.0),
        (WHOLE, '"Output (b)"', 2.0), (WHOLE, "Tie", 1.5), (WHOLE, "Output (c)", None), (WHOLE, "", None),
        (WHOLE, "I choose Output (a)", None), (WHOLE, "Output (a) Output (b)", None),
        (WHOLE, "Output (a)\nOutput (b)", None), (WHOLE, "Output (a)\n\nIt is better.", None),
        (WHOLE, "The answer says 'Output (b)' but I disagree", None), (WHOLE, "(a)", None),
        (WHOLE, "Output (\u0430)", None),  # a Cyrillic letter
        (LETTER, "a", 1.0), (LETTER, "B.", 2.0), (LETTER, "C", 1.5), (LETTER, "A or B", None),
        (CASED, "m", 1.0), (CASED, " M\n", 2.0), (CASED, "Tie", None),
        (LAST, "(a) quotes 'Output (b)'.\nOutput (b)\nis what it says. So:\n\nOutput (a)\n", 1.0),
        (LAST, "Output (a)\nbecause it is better", None), (LAST, "  \n ", None),
        (RANKING, RANKED % (1, 2), 1.0), (RANKING, RANKED % (2, 1), 2.0), (RANKING, RANKED % (1, 1), 1.5),
        (RANKING, '[{"rank": 2, "model": "model_2"}, {"rank": 1, "model": "model_1"}]', 1.0),
        (RANKING, RANKED % (3, 1), None), (RANKING, RANKED % ("True", 2), None),
        (RANKING, RANKED % ("'1'", 2), None),
        (RANKING, RANKED % ("1, 'rank': 2", 1), None),  # a key twice
        (RANKING, "[{'model': 'model_1', 'rank': 1}]", None),
        (RANKING, "[{'model': 'model_1', 'rank': 1}, {'model': 'model_1', 'rank': 2}]", None),
        (RANKING, f"Here you are: {RANKED % (1, 2)}", None), (RANKING, "[" * 5000, None),
        (RANKING, "__import__('os').getcwd()", None), (RANKING, "[{**x}, {}]", None),
        (JSON, '{"verdict": "a"}', 1.0), (JSON, ' {"why": "better", "verdict": "b"}\n', 2.0),
        (JSON, '```json\n{"verdict": "tie"}\n```', 1.5), (JSON, '{"verdict": "A"}', None),
        (JSON, '{"verdict": "a"} {"verdict": "b"}', None), (JSON, '{"verdict": "a", "verdict": "b"}', None),
        (JSON, 'It says {"verdict": "b"}', None), (JSON, '["a"]', None), (JSON, "[" * 5000, None),
        (BOOL, '{"first_is_better": true}', 1.0), (BOOL, '{"first_is_better": false}', 2.0),
        (BOOL, '{"first_is_better": 1}', None), (BOOL, '{"first_is_better": null}', None),
        (REGEX, "Output (a)", 1.0), (REGEX, "So:\n Output (b) is best", 2.0),
        (REGEX, "I like Output (b)", None),
        (REGEX, "Output (a)\nOutput (b)", None), (REGEX, "Output (a) Output (b)", None), (REGEX, "", None),
        (SCORES, "7 1\nmore", 1.0), (SCORES, "1, 7", 2.0), (SCORES, "5.5 5.5", 1.5), (SCORES, "7", None),
        (SCORES, "7 1 3", None), (SCORES, "7/10 1/10", None),
        (SCORES, "nan 1", None), (SCORES, "1e9 2", None),
    ],
)  # fmt: skip
def test_replies(fields: dict[str, Any], reply: str, verdict: float | None) -> None:
    assert parser(**fields).read(reply) == verdict


SCRAPS = [
    "Output (a)",
    "Output (b)",
    "[",
    "]",
    "{",
    "}",
    "'model'",
    '"rank"',
    ":",
    "1",
    "2",
    "\\",
    "\0",
    "\n",
    "m",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from([*SCRAPS, ", ", "\ud800", "```json\n"])).map("".join)))
def test_any_reply_can_be_read(reply: str) -> None:
    for fields in (WHOLE, LETTER, CASED, LAST, RANKING, JSON, BOOL, REGEX, SCORES):
        assert parser(**fields).read(reply) in (None, 1.0, 1.5, 2.0)


@pytest.mark.parametrize(
    ("told", "weighted", "binary"),
    [
        ({"m": math.log(0.9), "M": math.log(0.1)}, 1.1, 1.0),
        ({"m": math.log(0.2), "M": math.log(0.2), "The": -0.1}, 1.5, 1.5),
        ({"M": -3.0, "Both": -0.1}, 2.0, 2.0),
        ({"m": -800.0}, 1.0, 1.0),
        ({"m": -1000.0, "M": 0.0}, 2.0, 2.0),
        ({"**m": -0.1, " M": -1.0}, None, None),
        ({}, None, None),
    ],
)
def test_verdicts_by_log_probability(
    told: dict[str, float], weighted: float | None, binary: float | None
) -> None:
    assert parser(kind="logprobs").read("m", told) == pytest.approx(weighted, abs=1e-12)
    assert parser(kind="logprobs", binarize=True).read("m", told) == binary


def test_weighted_verdicts_are_those_of_alpaca_eval(data: Path) -> None:
    """Every stored log-probability of six models' real annotations gives the stored preference."""
    found = parser(kind="logprobs")
    prompts = [row["instruction"] for row in read_rows(data / "alpaca_eval" / "alpaca_eval.jsonl")]
    seen = 0
    folder = data / "alpaca_eval" / "annotations" / "weighted_alpaca_eval_gpt4_turbo"
    for path in sorted(folder.iterdir()):
        for row in read_rows(path):
            if not row.get("top_logprobs"):
                continue
            verdict = found.read("", dict(row["top_logprobs"]))
            switched = coin(prompts[row["idx"]], 0)
            assert (3 - verdict if switched else verdict) == pytest.approx(row["preference"], abs=1e-9)
            seen += 1
    assert seen > 4700


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "regex", "first": "(", "second": "b"}, "is no regular expression"),
        ({"kind": "regex", "first": "a*", "second": "b"}, "matches everywhere"),
        ({"kind": "whole_reply", "first": "A.", "second": "A"}, "must differ"),
        ({"kind": "reads_minds"}, "reads_minds"),
    ],
)
def test_parsers_that_make_no_sense(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parser(**fields)


# ---------------------------------------------------------------- templates

EVERY = Pair("1", "PROMPT", "FIRST", "SECOND")


@pytest.mark.parametrize("name", names("judge"))
def test_shipped_templates(name: str) -> None:
    found = template(name)
    system, user = found.messages(EVERY, "ab")
    assert (system.role, user.role) == ("system", "user") and len(found.hash) == 64
    assert user.content.index("PROMPT") < user.content.index("FIRST") < user.content.index("SECOND")
    swapped = found.messages(EVERY, "ba")[1].content
    assert swapped.index("SECOND") < swapped.index("FIRST")
    first, second = found.parser.forms()
    if not isinstance(found.parser, LogprobsParser):
        assert (found.read(first), found.read(second)) == (1.0, 2.0)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.j2").write_text("{{ prompt }} A: {{ first }} B: {{ second }} A or B?\n")
    found = wording(
        kind="template", path=str(tmp_path / "mine.j2"), parser=LETTER, max_tokens=2, temperature=0.5
    )
    assert found.messages(EVERY, "ba") == (Message("user", "PROMPT A: SECOND B: FIRST A or B?"),)
    assert found.read("B") == 2.0 and (found.max_tokens, found.temperature) == (2, 0.5)
    (tmp_path / "roles.j2").write_text(
        "{% block parser %}{kind: json, field: best}{% endblock %}{% block system %}Be fair.{% endblock %}"
        "{% block user %}{{ first }}{% endblock %}{% block assistant %}And?{% endblock %}"
        "{% block user_2 %}{{ second }}{% endblock %}"
    )
    found = wording(kind="template", path=str(tmp_path / "roles.j2"))
    assert [m.role for m in found.messages(EVERY, "ab")] == ["system", "user", "assistant", "user"]
    assert found.read('{"best": "b"}') == 2.0


@pytest.mark.parametrize(
    ("text", "fields", "words"),
    [
        ("{{ first }}", {"parser": WHOLE}, "never shows the answer `second`"),
        ("{{ first }} {{ second }}", {}, "does not say how replies are read"),
        (
            "{{ first }} {{ second }} {{ third }}",
            {"parser": WHOLE},
            "'third' is undefined; it is given `prompt`",
        ),
        ("{% for %}", {"parser": WHOLE}, "cannot be filled in"),
        ("{{ first.__class__.__mro__ }} {{ second }}", {"parser": WHOLE}, "cannot be filled in: .*unsafe"),
        (
            "{% block judge %}{{ first }}{{ second }}{% endblock %}",
            {"parser": WHOLE},
            "blocks named by role.*not judge",
        ),
        ("{% block parser %}psychic{% endblock %}{% block user %}x{% endblock %}", {}, "the block `parser`"),
    ],
)
def test_templates_that_make_no_sense(tmp_path: Path, text: str, fields: dict[str, Any], words: str) -> None:
    (tmp_path / "mine.j2").write_text(text)
    with pytest.raises(JobError, match=words):
        wording(kind="template", path=str(tmp_path / "mine.j2"), **fields)


# ---------------------------------------------------------------- AlpacaEval's


@pytest.fixture(scope="module")
def upstream() -> str:
    """Where alpaca-eval is: the folder that ALIGNC_ALPACA_EVAL names, else the installed package."""
    folder = os.environ.get("ALIGNC_ALPACA_EVAL")
    if not folder and importlib.util.find_spec("alpaca_eval") is None:
        pytest.skip("alpaca-eval is not installed: pip install --no-deps alpaca-eval==0.6.6")
    return folder or "package:alpaca_eval"


def whole_text(messages: tuple[Message, ...], human: bool) -> str:
    """Messages as AlpacaEval's one text, stripped."""
    if human:
        return f"Human: {messages[0].content}\n\nAssistant:"
    return "\n".join(f"<|im_start|>{m.role}\n{m.content}\n<|im_end|>" for m in messages)


ANNOTATORS = ["alpaca_eval_gpt4", "claude", "weighted_alpaca_eval_gpt4_turbo"]


@pytest.mark.parametrize("annotator", ANNOTATORS)
def test_filled_in_text_is_that_of_alpaca_eval(annotator: str, upstream: str, data: Path) -> None:
    """Every prompt that the real program sent for four models, by its hash."""
    folder = data / "alpaca_eval"
    found = wording(kind="alpaca_eval", name=annotator, path=upstream)
    prompts = [row["instruction"] for row in read_rows(folder / "alpaca_eval.jsonl")]
    base = (
        "gpt4_1106_preview.v2_reference"
        if annotator.startswith("weighted")
        else "text_davinci_003.v1_reference"
    )
    versus = {r["instruction"]: r["output"] for r in read_rows(folder / "outputs" / f"{base}.jsonl.gz")}
    for model in ("gpt4", "claude", "alpaca-7b", "vicuna-13b"):
        rows = read_rows(folder / "outputs" / f"{model}.jsonl.gz")
        answers = {row["instruction"]: row["output"] for row in rows}
        with (folder / "parity" / f"prompt_sha256.{annotator}.{model}.csv").open() as file:
            hashes = list(csv.DictReader(file))
        assert len(hashes) > 780
        for row in hashes:
            prompt = prompts[int(row["idx"])]
            pair = Pair(row["idx"], prompt, versus[prompt], answers[prompt])
            messages = found.messages(pair, "ba" if coin(prompt, 0) else "ab")
            text = whole_text(messages, human=annotator == "claude").strip()
            digest = hashlib.sha256(text.encode()).hexdigest()
            assert digest == row["sha256_of_stripped_prompt_template_text"], (model, row["idx"])


def test_settings_and_parsers_are_those_of_alpaca_eval(upstream: str) -> None:
    regex = {"kind": "regex", "first": REGEX["first"], "second": REGEX["second"], "tie": None}
    weighted = {"kind": "logprobs", "first": "m", "second": "M", "top": 5, "binarize": False}
    ranking = {"kind": "ranking", "first": "model_1", "second": "model_2"}
    wanted = {
        "alpaca_eval_gpt4": (0, 100, ranking, ["system", "user"]),
        "claude": (0, 50, regex, ["user"]),
        "weighted_alpaca_eval_gpt4_turbo": (1, 1, weighted, ["system", "user"]),
        "gpt4": (0, 50, regex, ["system", "user"]),  # the paper's, as `claude` is
    }
    for name, (temperature, most, parser_, roles) in wanted.items():
        found = wording(kind="alpaca_eval", name=name, path=upstream)
        assert (found.temperature, found.max_tokens) == (temperature, most)
        assert found.parser.model_dump() == parser_
        assert [m.role for m in found.messages(EVERY, "ab")] == roles
    own = wording(kind="alpaca_eval", name="gpt4", path=upstream, temperature=1, max_tokens=9)
    assert (own.temperature, own.max_tokens) == (1, 9)
    hashes = {wording(kind="alpaca_eval", name=name, path=upstream).hash for name in wanted}
    assert len(hashes) == 4 and "alpaca_eval" not in sys.modules


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody", "has no annotator 'nobody'; it has .*alpaca_eval_gpt4"),
        ("alpaca_farm_greedy_gpt4", "several pairs into one request"),
        ("lmsys_gpt4", "read by lmsys_parser, which is not known"),
    ],
)
def test_annotators_that_cannot_be_used(name: str, words: str, upstream: str) -> None:
    with pytest.raises(JobError, match=words):
        wording(kind="alpaca_eval", name=name, path=upstream)


def test_an_absent_package_says_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="pip install --no-deps no-such-eval, or name a folder"):
        wording(kind="alpaca_eval", name="claude", path="package:no_such_eval")
    with pytest.raises(JobError, match="has no folder evaluators_configs"):
        wording(kind="alpaca_eval", name="claude", path=str(tmp_path))


# ---------------------------------------------------------------- in a spec

SPEC = """\
experiment: asked
llms: {critic: {provider: simulated}}
wordings:
  mine: {kind: template, path: mine.j2, parser: {kind: whole_reply, first: A, second: B}}
sources: {tasks: {kind: world, size: 40}}
stages:
  prompts: {kind: prepare, source: tasks}
  a: {kind: demonstrate, prompts: prompts, teacher: critic}
  b: {kind: demonstrate, prompts: prompts, teacher: critic, seed: 1}
  plain: {kind: label, critic: critic, a: a, b: b}
  labels: {kind: label, critic: critic, a: a, b: b, wording: mine}
"""


def compiled(folder: Path, text: str, *overrides: str) -> dict[str, str]:
    """Keys by node."""
    program = compile_text(folder, text, *overrides)
    return dict(zip(node_ids(program), program.keys, strict=True))


def test_the_text_of_a_wording_is_in_the_key(tmp_path: Path) -> None:
    template = tmp_path / "mine.j2"
    template.write_text("A {{ first }} B {{ second }}")
    first = compiled(tmp_path, SPEC)
    template.write_text("A: {{ first }} B: {{ second }}")
    other = compiled(tmp_path, SPEC)
    assert [name for name in first if first[name] != other[name]] == ["labels"]
    by_parser = compiled(tmp_path, SPEC, "wordings.mine.parser.first=a")
    assert [name for name in other if by_parser[name] != other[name]] == ["labels"]
    again = compiled(tmp_path, SPEC, "stages.plain.repeats=1")
    assert again == other  # at its default it is in no key


def test_upstreams_text_alone_is_in_the_key(tmp_path: Path, upstream: str) -> None:
    official = "{kind: alpaca_eval, name: claude, path: %s}"
    text = SPEC.replace(MINE, official % upstream)
    installed = compiled(tmp_path, text)
    found = importlib.util.find_spec("alpaca_eval")
    source = Path(str(found and found.origin)).parent if upstream.startswith("package:") else Path(upstream)
    names = ("claude/configs.yaml", "claude/basic_prompt.txt")
    for name in names:
        copy = tmp_path / "evaluators_configs" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((source / "evaluators_configs" / name).read_bytes())
    copied = compiled(tmp_path, text, f"wordings.mine.path={tmp_path}")
    assert copied == installed
    copy.write_text(copy.read_text().replace("best", "better"))
    assert compiled(tmp_path, text, f"wordings.mine.path={tmp_path}")["labels"] != installed["labels"]


MINE = "{kind: template, path: mine.j2, parser: {kind: whole_reply, first: A, second: B}}"


@pytest.mark.parametrize(
    ("mine", "override", "code", "words"),
    [
        ("{kind: alpaca_eval, name: claude, path: 'package:no_eval'}", "", "AC501", "`no_eval` is not"),
        ("{kind: alpaca_eval, name: claude, path: /nowhere}", "", "AC501", "configs.yaml is not there"),
        ("{kind: template, path: other.j2}", "", "AC501", "other.j2 is not there"),
        ("{kind: template, path: mine.j2}", "", "AC103", "does not say how replies are read"),
        (MINE, "wordings.mine.parser.kind=regx", "AC103", "unknown kind `regx`"),
        (MINE, "stages.labels.template=pairwise", "AC321", "`template` and `wording` both say"),
        (MINE, "stages.labels.wording=critic", "AC303", "Wording"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_any_job(
    tmp_path: Path, mine: str, override: str, code: str, words: str
) -> None:
    (tmp_path / "mine.j2").write_text("{{ first }} {{ second }}")
    assert MINE in SPEC
    with pytest.raises(SpecError) as caught:
        compile_text(tmp_path, SPEC.replace(MINE, mine), *filter(None, [override]))
    assert [(d.code, words in d.message) for d in caught.value.diagnostics] == [(code, True)]
