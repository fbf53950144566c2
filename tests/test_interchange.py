"""Files of other programs: pairs in every form that trainers read, AlpacaEval's files there and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.adopt import Unfit, check_rows
from compiler.errors import UsageError
from compiler.output.write import write
from compiler.program import Program, compile_spec
from compiler.score import Asked, gather
from runtime.artifacts import Port
from runtime.declare import AlpacaEvalSource, PreferencesSource
from runtime.files import read_json, read_rows, write_rows
from runtime.interchange.alpaca_eval import read_leaderboard
from runtime.interchange.preferences import as_messages, pair_of
from runtime.job import JobError
from runtime.judging import coin
from runtime.sources import read
from runtime.statistics.estimates import win_rate
from runtime.store import Store
from runtime.templates import fill
from tests.commands import alignc
from tests.specs import LIGHT
from tests.test_statistics import V1_CLAUDE, preferences

# ---------------------------------------------------------------- pairs

USER, GOOD = {"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}
BAD = {"role": "assistant", "content": "r"}
SYSTEM = {"role": "system", "content": "s"}
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


def judged(preference: float | None) -> dict[str, Any]:
    return {"instruction": "p", "output_1": "r", "output_2": "c", "preference": preference}


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({**PAIR, "score": 3}, PAIR),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
        ({"prompt": "p", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
        ({"prompt": "p", "chosen": [GOOD], "rejected": [BAD]}, PAIR),
        ({"prompt": [USER], "chosen": "c", "rejected": "r"}, PAIR),
        ({"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, "several_turns"),
        ({"prompt": [USER, BAD, USER], "chosen": [GOOD], "rejected": [BAD]}, "several_turns"),
        ({"chosen": [USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, "two_prompts"),
        (judged(2), PAIR),
        (judged(1.8), PAIR),
        (judged(1), {"prompt": "p", "chosen": "r", "rejected": "c"}),
        (judged(0), "tie"),
        (judged(1.5), "tie"),
        (judged(None), "no_verdict"),
        (judged(-1), "no_verdict"),
    ],
)
def test_pairs_are_known_by_their_content(record: dict[str, Any], found: object) -> None:
    assert pair_of(record, "x:1") == found


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "p", "chosen": "c"}, "x:1: there is no field `rejected`; the fields are prompt, chosen"),
        ({"chosen": "a", "rejected": "b"}, "x:1: there is no field `prompt`, and `chosen` is no transcript"),
        ({**PAIR, "chosen": 3}, "`chosen` must be text or a list of {role, content}"),
        ({"chosen": [USER], "rejected": [USER]}, "`chosen` must end in a message of the assistant"),
        ({"chosen": [{**GOOD, "content": None}], "rejected": [BAD]}, "`content` must be text, not NoneType"),
        (judged("2"), "`preference` must be a number or null"),  # type: ignore[arg-type]
        ({**judged(2), "output_2": None}, "`output_2` must be text"),
    ],
)
def test_what_is_no_pair_is_told_with_its_place(record: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as told:
        pair_of(record, "x:1")
    assert message in str(told.value)


SHORT = "\n\nHuman: p\n\nAssistant: "
LONG = "\n\nHuman: a\n\nAssistant: b\n\nHuman: p\n\nAssistant: "
ASKED, TOLD = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("record", "alone", "joined"),
    [
        ({"chosen": f"{SHORT}c", "rejected": f"{SHORT}r"}, "p", "p"),
        ({"chosen": f"{LONG}c", "rejected": f"{LONG}r"}, None, "a\n\nAssistant: b\n\nHuman: p"),
        ({"prompt": [ASKED, TOLD, USER], "chosen": [GOOD], "rejected": "r"}, None, LONG[9:-13]),
        ({"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, None, "s\n\np"),
        ({"chosen": [TOLD, USER, GOOD], "rejected": [TOLD, USER, BAD]}, None, None),
    ],
)
def test_turns_are_left_out_or_joined(record: dict[str, Any], alone: str | None, joined: str | None) -> None:
    for join, prompt in ((False, alone), (True, joined)):
        wanted = "several_turns" if prompt is None else {**PAIR, "prompt": prompt}
        assert pair_of(record, "x:1", join=join) == wanted


def test_joined_turns_are_the_conversation_again() -> None:
    found = pair_of({"chosen": f"{LONG}c", "rejected": f"{LONG}r"}, "x:1", join=True)
    assert isinstance(found, dict)
    assert fill("chat/human_assistant.j2", prompt=found["prompt"]).strip() == LONG.strip()


def test_columns_of_pairs_have_names(tmp_path: Path) -> None:
    rows = [
        {"question": "p", "good": "c", "bad": [BAD], "chosen": "no"},
        {"question": [ASKED, TOLD, USER], "good": "c", "bad": "r"},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    dropped = Counter[str]()
    told = {"prompt": "question", "chosen": "good", "rejected": "bad", "turns": "joined"}
    source = PreferencesSource(kind="preferences", path=str(tmp_path / "pairs.json"), **told)
    assert [row["prompt"] for row in read(source, dropped)] == ["p", LONG[9:-13]] and not dropped


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, texts)
def test_messages_and_pairs_go_there_and_back(prompt: str, chosen: str, rejected: str) -> None:
    pair = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert pair_of(json.loads(json.dumps(as_messages(pair))), "x:1") == pair


def test_a_source_of_pairs_counts_what_it_leaves_out(tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "rejected": "other"}, judged(0), {"chosen": [GOOD, GOOD], "rejected": [GOOD, BAD]}]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    dropped = Counter[str]()
    source = PreferencesSource(kind="preferences", path=str(tmp_path / "pairs.json"))
    found = list(read(source, dropped))
    assert [row["rejected"] for row in found] == ["r", "other"]
    assert len({row["id"] for row in found}) == 2  # two pairs of one prompt are two rows
    assert dropped == {"tie": 1, "several_turns": 1}


def test_pairs_saved_by_datasets_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_list([{"chosen": [USER, GOOD], "rejected": [USER, BAD]}])
    saved.to_parquet(tmp_path / "pairs.parquet")
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "folder")
    for name in ("pairs.parquet", "folder"):
        source = PreferencesSource(kind="preferences", path=str(tmp_path / name))
        (row,) = read(source, Counter())
        assert {field: row[field] for field in PAIR} == PAIR
    with pytest.raises(ValueError, match="exactly one of `hub` and `path`"):
        PreferencesSource(kind="preferences")


def test_prepared_pairs_are_for_dpo(tmp_path: Path) -> None:
    write_rows(tmp_path / "pairs.jsonl", [as_messages({**PAIR, "prompt": f"p{i}"}) for i in range(20)])
    (tmp_path / "spec.yaml").write_text("""\
experiment: brought
models:
  fresh: {init: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64}, chat: plain}
sources:
  pairs: {kind: preferences, path: pairs.jsonl}
stages:
  data: {kind: prepare, source: pairs, split: {train: 75%, validation: 25%}}
  tuned: {kind: dpo, model: fresh, data: data.train, epochs: 1, learning_rate: 1e-4}
  wrong: {kind: sft, model: fresh, data: data.train, epochs: 1, learning_rate: 1e-4}
""")
    told = alignc("check", "spec.yaml", cwd=tmp_path, code=2)
    assert "1 problem found" in told and "`data.train` is Preferences" in told
    text = (tmp_path / "spec.yaml").read_text()
    (tmp_path / "spec.yaml").write_text(text.partition("  wrong:")[0])
    alignc("run", "spec.yaml", "--select", "data", cwd=tmp_path)
    (path,) = tmp_path.glob(".alignc/prepare/*/train.jsonl")
    rows = list(read_rows(path))
    assert len(rows) == 15 and set(rows[0]) == {"id", "prompt", "chosen", "rejected"}


def test_pairs_in_messages_can_be_adopted(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_rows(path, [{"chosen": [USER, GOOD], "rejected": [USER, BAD]}])
    (row,) = check_rows(path, Port("Preferences"), {})
    assert {name: row[name] for name in PAIR} == PAIR
    write_rows(path, [{"chosen": [SYSTEM, GOOD], "rejected": [SYSTEM, BAD]}])
    with pytest.raises(Unfit, match=r":1: a pair needs one prompt of one turn \(several_turns\)"):
        list(check_rows(path, Port("Preferences"), {}))


def test_real_annotations_become_pairs(data: Path, tmp_path: Path) -> None:
    """Every clear verdict gives a pair with the winner as chosen, and ties are counted."""
    values = preferences(data, V1_CLAUDE, "vicuna-13b")
    rows = [{**judged(p), "instruction": f"{i}"} for i, p in enumerate(values)]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    dropped = Counter[str]()
    source = PreferencesSource(kind="preferences", path=str(tmp_path / "annotations.json"))
    found = list(read(source, dropped))
    expected = win_rate(values)
    assert Counter(row["chosen"] for row in found) == {"c": expected.n_wins, "r": expected.n_wins_base}
    assert dropped["tie"] == expected.n_draws


# ---------------------------------------------------------------- written files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Store, Path]:
    """A small experiment of teachers and judges, run."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "light.yaml").write_text(LIGHT)
    alignc("run", "light.yaml", "--store", "s", cwd=folder)
    store = Store(folder / "s")
    return compile_spec(str(folder / "light.yaml"), (), folder / "prints.json"), store, folder


def written(
    made: tuple[Program, Store, Path], form: str, *nodes: str, output: str | None = None, name: str = ""
) -> Path:
    program, store, folder = made
    ids = [node.id for node in program.graph.nodes]
    path = folder / f"{form}.out"
    write(program, store, [ids.index(node) for node in nodes], form, output, name, path)
    return path


def artifact(made: tuple[Program, Store, Path], node: str) -> Path:
    program, store, _ = made
    index = [n.id for n in program.graph.nodes].index(node)
    return store.artifact(program.graph.nodes[index].kind.name, program.keys[index])


def test_completions_go_to_alpaca_eval_and_back(made: tuple[Program, Store, Path]) -> None:
    path = written(made, "model_outputs", "wrong[seed=1]", name="weak")
    assert {row["generator"] for row in read_json(path)} == {"weak"}
    again = list(read(AlpacaEvalSource(kind="alpaca_eval", path=str(path)), Counter()))
    rows = list(read_rows(artifact(made, "wrong[seed=1]") / "data.jsonl"))
    assert again == [{name: row[name] for name in ("id", "prompt", "completion")} for row in rows]


def test_annotations_score_as_the_stage_did(made: tuple[Program, Store, Path]) -> None:
    path = written(made, "annotations", "score[seed=0]")
    (found,) = gather(Asked((path,), resamples=10)).scores
    assert (found.name, found.baseline) == ("wrong[seed=0]", "right")
    orders = {
        row["instruction"]: row["is_switched_outputs"] for row in read_json(path) if row["raw_completion"]
    }
    assert orders == {prompt: coin(prompt, 0) for prompt in orders} and len({*orders.values()}) == 2
    metrics = read_json(artifact(made, "score[seed=0]") / "metrics.json")
    row = found.row()
    assert {name: row[name] for name in metrics if name in row} == {
        name: value for name, value in metrics.items() if not name.startswith("accuracy")
    }
    board = read_leaderboard(written(made, "leaderboard", "score[seed=0]", "score[seed=1]"))
    assert set(board) == {"score[seed=0]", "score[seed=1]"}
    assert float(board["score[seed=0]"]["win_rate"]) == metrics["win_rate"]
    program, store, folder = made
    theirs = folder / "theirs.csv"
    theirs.write_text(",win_rate,mode\nsomebody,12.5,verified\n")
    index = [node.id for node in program.graph.nodes].index("score[seed=0]")
    assert write(program, store, [index], "leaderboard", None, "ours", folder / "all.csv", theirs) == 2
    both = read_leaderboard(folder / "all.csv")
    assert both["somebody"]["mode"] == "verified" and both["ours"] == board["score[seed=0]"]


def test_labels_are_written_as_pairs_messages_and_annotations(made: tuple[Program, Store, Path]) -> None:
    rows = [{k: row[k] for k in PAIR} for row in read_rows(artifact(made, "labels[seed=0]") / "data.jsonl")]
    assert list(read_rows(written(made, "preferences", "labels[seed=0]"))) == rows
    assert list(read_rows(written(made, "messages", "labels[seed=0]"))) == [as_messages(row) for row in rows]
    again = read(
        PreferencesSource(kind="preferences", path=str(written(made, "annotations", "labels[seed=0]"))),
        Counter(),
    )
    assert [{k: row[k] for k in PAIR} for row in again] == rows
    pairs = list(read_rows(written(made, "completions", "right")))
    assert pairs == [
        {k: row[k] for k in ("prompt", "completion")}
        for row in read_rows(artifact(made, "right") / "data.jsonl")
    ]
    answers = read_rows(written(made, "messages", "right"))
    assert [turn["role"] for turn in next(answers)["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("form", "nodes", "message"),
    [
        ("preferences", ["right"], "right makes Demonstrations: preferences are written of Preferences"),
        ("annotations", ["score[seed=0]", "score[seed=1]"], "those of one node, and 2 are named"),
        ("model_outputs", ["labels[seed=0]"], "makes Preferences, Verdicts (verdicts): model_outputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_written(
    made: tuple[Program, Store, Path], form: str, nodes: list[str], message: str
) -> None:
    with pytest.raises(UsageError) as told:
        written(made, form, *nodes)
    assert message in str(told.value)


def test_what_is_not_made_is_not_written(made: tuple[Program, Store, Path], tmp_path: Path) -> None:
    program, _, folder = made
    with pytest.raises(UsageError, match=r"right is not made yet: `alignc run` with `--select '\+right'`"):
        written((program, Store(tmp_path / "empty"), folder), "model_outputs", "right")
