"""Sources and `prepare`: what is read, what is dropped and told, and how rows are cut into splits."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from runtime.declare import Source
from runtime.files import read_json, read_rows
from runtime.fingerprint import fingerprint
from runtime.job import JobError
from runtime.run_job import Outcome, run_job
from runtime.sources import read, row_id, unique
from runtime.stages.prepare import cut, ordered, shares
from runtime.store import Store
from tests import support


def rows_of(**declared: Any) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Rows of a source without their ids, and what was dropped."""
    dropped = Counter[str]()
    rows = list(unique(read(TypeAdapter(Source).validate_python(declared), dropped), dropped))
    assert all(row["id"] == row_id(row) and next(iter(row)) == "id" for row in rows)
    return [{k: v for k, v in row.items() if k != "id"} for row in rows], dict(dropped)


def written(folder: Path, text: str | bytes, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# ---------------------------------------------------------------- readers


def test_jsonl_prompts_completions_and_answers(tmp_path: Path) -> None:
    text = '{"q": "a", "r": "b", "n": 7}\n\n{"q": "é", "r": null, "n": "x"}\n{"q": "a", "r": "c", "n": 1}\n'
    path = written(tmp_path, text)
    rows, dropped = rows_of(kind="jsonl", path=path, prompt="q", completion="r", answer="n")
    assert rows == [
        {"prompt": "a", "completion": "b", "answer": "7"},
        {"prompt": "é", "completion": "", "answer": "x"},
    ]
    assert dropped == {"duplicate": 1}


def test_a_file_of_a_hub_data_set_is_read_from_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "datasets--us--data"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    written(cached / "snapshots" / "abc", '[{"instruction": "a", "output": "b"}]', "eval.json")
    rows, _ = rows_of(kind="alpaca_eval", hub="us/data", file="eval.json", rows=805)
    assert rows == [{"prompt": "a", "completion": "b"}]
    with pytest.raises(JobError, match=r"other.json of the data set us/data cannot be had"):
        rows_of(kind="alpaca_eval", hub="us/data", file="other.json")
    for wrong in (
        {},
        {"hub": "us/data"},
        {"path": "x", "hub": "us/data", "file": "y"},
        {"path": "x", "file": "y"},
    ):
        with pytest.raises(ValueError, match="give either `path`, or `hub` and the `file` in it"):
            rows_of(kind="sharegpt", **wrong)


def test_jsonl_takes_the_first_user_and_assistant_turns_of_messages(tmp_path: Path) -> None:
    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    full = [("system", "s"), ("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2")]
    talks = ([turn(*t) for t in full], [turn("user", "alone")], [])
    text = "".join(json.dumps({"m": m}) + "\n" for m in talks)
    rows, _ = rows_of(kind="jsonl", path=written(tmp_path, text), messages="m")
    assert rows == [
        {"prompt": "u1", "completion": "a1"},
        {"prompt": "alone", "completion": ""},
        {"prompt": "", "completion": ""},
    ]


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    line = '{"prompt": "a"}\n'
    packed = written(tmp_path, gzip.compress(line.encode()), "rows.jsonl.gz")
    marked = written(tmp_path, b"\xef\xbb\xbf" + line.encode())
    assert rows_of(kind="jsonl", path=packed) == rows_of(kind="jsonl", path=marked) == ([{"prompt": "a"}], {})


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.jsonl", '{"prompt": "a"}\n{"prompt": \n', ["x.jsonl:2", "not JSON", "mend"]),
        ("x.jsonl", '{"prompt": "a"}\n[1]\n', ["x.jsonl:2", "object", "list"]),
        ("x.jsonl", '{"text": "a", "id": 3}\n', ["x.jsonl:1", "no field `prompt`", "text, id"]),
        ("x.jsonl", '{"prompt": 3}\n', ["x.jsonl:1", "must be text, not int"]),
        ("x.jsonl", '{"prompt": "\\ud83d"}\n', ["x.jsonl:1", "surrogate"]),
        ("x.jsonl", b'{"prompt": "a"}\n\xff\xfe\n', ["x.jsonl:1", "not UTF-8"]),
        ("x.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99, mtime=0)[:-20], ["x.jsonl.gz:", "gzip"]),
        ("x.jsonl.gz", b"no gzip at all", ["x.jsonl.gz:1", "gzip"]),
    ],
)
def test_bad_lines_are_refused_with_their_place(
    tmp_path: Path, name: str, content: str | bytes, told: list[str]
) -> None:
    with pytest.raises(JobError) as error:
        rows_of(kind="jsonl", path=written(tmp_path, content, name))
    assert all(word in str(error.value) for word in told), error.value


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for kind in ("jsonl", "sharegpt", "alpaca_eval"):
        with pytest.raises(JobError, match=r"No such file.*check `path`"):
            rows_of(kind=kind, path=str(tmp_path / "none.json"))


def talk(*turns: str) -> dict[str, Any]:
    """A conversation of `who: what` turns."""
    parts = [turn.split(": ", 1) for turn in turns]
    return {"id": "x", "conversations": [{"from": who, "value": what} for who, what in parts]}


def test_sharegpt_reads_as_the_lineage_does(tmp_path: Path) -> None:
    talks = [
        talk("human: a", "gpt: b", "human: c", "gpt: d"),
        talk("gpt: begins", "human: x", "gpt: y"),
        talk("human: fine", "gpt: fine", "human: later </s> token"),
        talk("human: <|endoftext|>", "gpt: y"),
        talk("human: alone"),
        talk(),
        talk("system: s", "human: e", "gpt: f"),
        talk("human: a", "gpt: another answer"),
    ]
    expected = [{"prompt": "a", "completion": "b"}, {"prompt": "e", "completion": "f"}]
    drops = {"begun_by_gpt": 1, "special_token": 2, "no_exchange": 2, "duplicate": 1}
    array = written(tmp_path, json.dumps(talks, indent=1), "talks.json")
    lines = written(tmp_path, "".join(json.dumps(t) + "\n" for t in talks), "talks.jsonl")
    assert rows_of(kind="sharegpt", path=array) == rows_of(kind="sharegpt", path=lines) == (expected, drops)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[\n{"id": 1}\n]', ["entry 1", "no list `conversations`"]),
        ('[{"conversations": [{"from": "human"}]}]', ["entry 1", "{from, value}"]),
        ("[\n{},\n{]", [":3", "not JSON"]),
        ("[3]", ["entry 1", "object", "int"]),
    ],
)
def test_bad_sharegpt_is_refused_with_its_place(tmp_path: Path, content: str, told: list[str]) -> None:
    with pytest.raises(JobError) as error:
        rows_of(kind="sharegpt", path=written(tmp_path, content, "talks.json"))
    assert all(word in str(error.value) for word in told), error.value


def test_alpaca_eval_outputs(data: Path, tmp_path: Path) -> None:
    path = data / "alpaca_eval" / "outputs" / "claude.jsonl.gz"
    rows, dropped = rows_of(kind="alpaca_eval", path=str(path))
    assert len(rows) + dropped.get("duplicate", 0) == 805
    assert rows[0]["prompt"].startswith("What are the names of some famous actors")
    as_array = written(tmp_path, json.dumps(list(read_rows(path))), "claude.json")
    assert rows_of(kind="alpaca_eval", path=as_array) == (rows, dropped)


def test_world_tasks_and_documents() -> None:
    tasks, _ = rows_of(kind="world", families=["copy", "add"], size=20)
    assert {row["family"] for row in tasks} == {"copy", "add"} and all(row["answer"] for row in tasks)
    documents, dropped = rows_of(kind="world", what="documents", size=50)
    assert len(documents) + dropped.get("duplicate", 0) == 50
    assert all(row["prompt"] == "" and row["completion"] for row in documents)


@pytest.mark.slow
def test_datasets_from_a_file_and_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = written(tmp_path, '{"q": "a", "r": "b"}\n{"q": "c", "r": "d"}\n')
    expected = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    fields = {"prompt": "q", "completion": "r"}
    assert rows_of(kind="datasets", path=path, **fields) == (expected, {})
    loaded = datasets.load_dataset("json", data_files=path, split="train")
    datasets.DatasetDict({"train": loaded}).save_to_disk(tmp_path / "saved")
    assert rows_of(kind="datasets", path=str(tmp_path / "saved"), **fields) == (expected, {})
    with pytest.raises(JobError, match="splits train, not 'tset'"):
        rows_of(kind="datasets", path=str(tmp_path / "saved"), split="tset")
    with pytest.raises(JobError, match="no field `prompt`; the fields are q, r"):
        rows_of(kind="datasets", path=str(tmp_path / "saved"))
    with pytest.raises(JobError, match="cannot be loaded"):
        rows_of(kind="datasets", path=str(tmp_path / "nowhere"))


# ---------------------------------------------------------------- shares, order, cut


@pytest.mark.parametrize(
    ("split", "total", "expected"),
    [
        ({"sft": "10%", "aif": "90%"}, 5405, {"sft": 540, "aif": 4864}),
        ({"sft": "10%", "aif": "rest"}, 5405, {"sft": 540, "aif": 4865}),
        ({"a": "33.3%", "b": "66.7%"}, 1000, {"a": 333, "b": 667}),
        ({"a": 5, "b": "100 %"}, 0, None),
        ({"a": 0, "b": "rest"}, 0, {"a": 0, "b": 0}),
        ({"": "rest"}, 3, {"": 3}),
        ({}, 3, {}),
        ({"a": "rest", "b": "rest"}, 9, None),
        ({"a": "60%", "b": "50%"}, 100, None),
        ({"a": "101%"}, 100, None),
        ({"a": "-1%"}, 100, None),
        ({"a": -1}, 100, None),
        ({"a": 11}, 10, None),
        ({"a": "ten"}, 10, None),
        ({"a": "10"}, 10, None),
    ],
)
def test_shares(split: dict[str, str | int], total: int, expected: dict[str, int] | None) -> None:
    if expected is None:
        with pytest.raises(ValueError):
            shares(split, total)
    else:
        assert shares(split, total) == expected


names = st.text("abcdef", min_size=1, max_size=3)


@st.composite
def splits(draw: st.DrawFn) -> tuple[dict[str, str | int], int]:
    """A split that fits, and a number of rows."""
    total = draw(st.integers(0, 300))
    split: dict[str, str | int] = {}
    percent, count = draw(st.integers(0, 100)), 0
    for name in draw(st.lists(names, unique=True, max_size=4)):
        part = draw(st.integers(0, percent))
        percent -= part
        split[name] = f"{part}%"
    left = total - sum(shares(split, total).values())
    for name in draw(st.lists(names.map(str.upper), unique=True, max_size=2)):
        count = draw(st.integers(0, left))
        left -= count
        split[name] = count
    if draw(st.booleans()):
        split["rest-of-it"] = "rest"
    return split, total


@given(splits())
def test_splits_are_disjoint_of_exact_size_and_cover(case: tuple[dict[str, str | int], int]) -> None:
    split, total = case
    rows = [{"id": f"{i:04}", "prompt": str(i)} for i in range(total)]
    parts = cut(rows, split)
    assert {name: len(part) for name, part in parts.items()} == shares(split, total)
    ids = [row["id"] for part in parts.values() for row in part]
    assert len(ids) == len(set(ids))
    if "rest" in split.values():
        assert len(ids) == total
    for name, share in split.items():
        if isinstance(share, int):
            assert len(parts[name]) == share
        elif share != "rest":
            assert len(parts[name]) == int(share[:-1]) * total // 100


@given(splits(), st.randoms())
def test_splits_do_not_depend_on_the_order_of_their_names(
    case: tuple[dict[str, str | int], int], random: Any
) -> None:
    split, total = case
    rows = [{"id": f"{i:04}", "prompt": str(i)} for i in range(total)]
    mixed = list(split.items())
    random.shuffle(mixed)
    assert cut(rows, split) == cut(rows, dict(mixed))


@given(st.sets(st.text(max_size=8)), st.sets(st.text(max_size=8)), st.integers(0, 5))
def test_added_rows_do_not_move_the_others_about(first: set[str], more: set[str], seed: int) -> None:
    def rows(prompts: set[str]) -> list[dict[str, str]]:
        return [{"id": row_id({"prompt": p, "completion": "c"}), "prompt": p} for p in prompts]

    before = [row["prompt"] for row in ordered(rows(first), seed)]
    after = [row["prompt"] for row in ordered(rows(first | more), seed) if row["prompt"] in first]
    assert before == after


def test_the_order_depends_on_the_seed() -> None:
    rows = [{"id": str(i), "prompt": str(i)} for i in range(50)]
    assert ordered(rows, 0) != ordered(rows, 1)


# ---------------------------------------------------------------- the stage


def prepared(store: Store, path: str, content: str | None = None, **config: Any) -> dict[str, Any]:
    source = {"kind": "jsonl", "path": path, "completion": "completion"}
    inputs = {"source": support.declared("sources", source, "Source")}
    description = support.describe("prepare", config, inputs)
    if content is not None:
        description["recipe"]["inputs"]["source"][0]["content"] = content
    return description


def test_prepare_filters_cuts_and_counts(store: Store, tmp_path: Path) -> None:
    lines = [{"prompt": f"p{i}", "completion": "c"} for i in range(100)]
    lines += [{"prompt": "p3", "completion": "again"}, {"prompt": "x" * 50, "completion": "c"}]
    lines += [{"prompt": "no completion", "completion": " "}]
    path = written(tmp_path, "".join(json.dumps(row) + "\n" for row in lines))
    split = {"sft": "10%", "aif": "rest", "test": 5}
    description = prepared(store, path, split=split, max_prompt_chars=20, only_full=True, limit=80)
    folder = support.run(store, description)
    parts = {name: list(read_rows(folder / f"{name}.jsonl")) for name in split}
    assert {name: len(part) for name, part in parts.items()} == {"sft": 8, "aif": 67, "test": 5}
    assert len({row["id"] for part in parts.values() for row in part}) == 80
    assert list(parts["sft"][0]) == ["id", "prompt", "completion"]
    summary = store.manifest("prepare", description["key"])["summary"]
    assert summary["read"] == 103 and summary["unused"] == 20 and summary["rows"]["aif"] == 67
    assert summary["dropped"] == {"duplicate": 1, "long_prompt": 1, "empty": 1}


def test_prepare_without_splits_in_file_order(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f'{{"prompt": "{i}", "completion": ""}}\n' for i in range(9)))
    folder = support.run(store, prepared(store, path, shuffle=False, limit=4))
    assert [row["prompt"] for row in read_rows(folder / "data.jsonl")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"split": {"a": 1, "b": "rest"}, "limit": 1}, "split 'b' is empty: rest of 1 rows"),
        ({"split": {"a": "10%"}}, "split 'a' is empty: 10% of 3 rows"),
        ({"split": {"a": 4}}, "3 rows are too few"),
        ({"max_prompt_chars": 1}, "split 'data' is empty"),
    ],
)
def test_prepare_refuses_empty_splits(
    store: Store, tmp_path: Path, config: dict[str, Any], told: str
) -> None:
    path = written(tmp_path, "".join(f'{{"prompt": "p{i}", "completion": ""}}\n' for i in range(3)))
    description = prepared(store, path, **config)
    assert run_job(store, description) is Outcome.REFUSED
    assert told in read_json(store.failure(description["key"]))["message"]


def test_prepare_refuses_a_file_that_changed_since_the_plan(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "a", "completion": "b"}\n')
    digest = fingerprint(Path(path))
    assert run_job(store, prepared(store, path, digest)) is Outcome.SEALED
    written(tmp_path, '{"prompt": "a", "completion": "B"}\n')
    description = prepared(store, path, digest, seed=1)
    assert run_job(store, description) is Outcome.REFUSED
    assert "has changed since" in read_json(store.failure(description["key"]))["message"]


# ---------------------------------------------------------------- fingerprints


def test_fingerprints_tell_content_and_not_places(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "sub" / "weights").write_text("w")
    same = fingerprint(tmp_path / "one")
    assert same == fingerprint(tmp_path / "two")
    assert fingerprint(tmp_path / "one" / "config.json") == fingerprint(tmp_path / "two" / "config.json")
    (tmp_path / "two" / ".cache").write_text("hidden")
    (tmp_path / "two" / "__pycache__").mkdir()
    (tmp_path / "two" / "__pycache__" / "x.pyc").write_text("compiled")
    assert fingerprint(tmp_path / "two") == same
    (tmp_path / "two" / "sub" / "weights").rename(tmp_path / "two" / "weights")
    assert fingerprint(tmp_path / "two") != same


def test_a_large_file_is_digested_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "large", tmp_path / "cache"
    path.write_bytes(b"x" * (1 << 20))
    os.utime(path, (1e9, 1e9))
    (tmp_path / "link").symlink_to(path)
    digest = fingerprint(path, cache)
    assert digest == fingerprint(path)
    with monkeypatch.context() as patched:
        patched.setattr("runtime.fingerprint.digest_file", lambda path: pytest.fail("digested again"))
        assert fingerprint(path, cache) == fingerprint(tmp_path / "link", cache) == digest
    path.write_bytes(b"y" * (1 << 20))  # the same size, changed just now: not remembered
    assert fingerprint(path, cache) == fingerprint(path) != digest
    (entry,) = cache.iterdir()
    entry.write_text("damaged")
    assert fingerprint(path, cache) == fingerprint(path)
