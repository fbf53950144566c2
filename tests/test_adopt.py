"""`alignc adopt`: what was made elsewhere becomes a node's artifact, after it was looked at closely."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compiler.adopt import Unfit, check_head, check_model, check_rows
from runtime.artifacts import Port
from runtime.claims import try_claim
from runtime.files import read_json, read_rows, write_json, write_rows
from runtime.sources import row_id
from runtime.store import Store
from tests.commands import alignc, artifacts
from tests.specs import LIGHT

# Real file formats of the kinds that people bring along: Alpaca's columns, no ids.
ALPACA = [{"instruction": f"Copy the string: {c}", "output": c, "answer": c} for c in ("ab", "cd", "ef")]
MAP = ("--map", "prompt=instruction", "--map", "completion=output")


@pytest.fixture
def light(tmp_path: Path) -> Path:
    (tmp_path / "light.yaml").write_text(LIGHT)
    write_rows(tmp_path / "alpaca.jsonl", ALPACA)
    return tmp_path


def test_adopted_data_are_reused_and_told_of(light: Path) -> None:
    alignc("run", "light.yaml", "--store", "whole", cwd=light)
    folders = (light / "whole" / "demonstrate").iterdir()
    (right,) = (p for p in folders if read_json(p / "manifest.json")["id"] == "right")
    shutil.copy(right / "data.jsonl", light / "mine.jsonl")
    told = alignc("adopt", "light.yaml", "right", "mine.jsonl", "--store", "s", cwd=light)
    assert "adopted mine.jsonl as right" in told
    plan = alignc("plan", "light.yaml", "--store", "s", cwd=light)
    assert "= right" in plan and "7 to run (+), 1 reused (=)" in plan
    alignc("run", "light.yaml", "--store", "s", cwd=light)
    assert artifacts(light / "s") == artifacts(light / "whole")
    told = alignc("results", "light.yaml", "--store", "s", "--out", "new", cwd=light)
    assert f"right was adopted from {light}/mine.jsonl by " in told
    assert f"adopted from <code>{light}/mine.jsonl</code>" in (light / "new" / "report.html").read_text()
    alignc("results", "light.yaml", "--store", "whole", "--out", "old", cwd=light)
    assert (light / "new" / "main.csv").read_bytes() == (light / "old" / "main.csv").read_bytes()
    manifests = (light / "s" / "demonstrate").glob("*/manifest.json")
    (sealed,) = (p for p in manifests if "adopted" in read_json(p))
    adopted = read_json(sealed)["adopted"]
    assert set(adopted) == {"path", "digest", "by", "time"} and len(adopted["digest"]) == 64
    Store(light / "s").verify("demonstrate", sealed.parent.name, digests=True)


def test_columns_are_mapped_and_rows_get_the_ids_of_their_prompts(light: Path) -> None:
    told = alignc("adopt", "light.yaml", "right", "alpaca.jsonl", "--store", "s", cwd=light, code=2)
    assert "alpaca.jsonl:1: there is no field `prompt`" in told and "--map prompt=instruction" in told
    alignc("adopt", "light.yaml", "right", "alpaca.jsonl", *MAP, "--store", "s", cwd=light)
    (path,) = (light / "s" / "demonstrate").glob("*/data.jsonl")
    rows = list(read_rows(path))
    prompt = ALPACA[0]["instruction"]
    assert rows[0] == {"id": row_id({"prompt": prompt}), "answer": "ab", "prompt": prompt, "completion": "ab"}
    assert len(rows) == 3


def test_splits_come_in_a_folder(light: Path) -> None:
    told = alignc("adopt", "light.yaml", "prompts", "alpaca.jsonl", "--store", "s", cwd=light, code=2)
    assert "prompts has several outputs: give a folder that holds train.jsonl, test.jsonl" in told
    (light / "splits").mkdir()
    for n, name in enumerate(("train", "test")):
        rows = [{"prompt": f"Question {i}{n}?", "answer": f"{i}{n}"} for i in range(50)]
        write_rows(light / "splits" / f"{name}.jsonl", rows)
    alignc("adopt", "light.yaml", "prompts", "splits", "--store", "s", cwd=light)
    told = alignc("plan", "light.yaml", "--store", "s", cwd=light)
    assert "= prompts" in told and "7 to run (+), 1 reused (=)" in told
    assert len(list((light / "s" / "prepare").glob("*/t*.jsonl"))) == 2


def test_preferences_come_without_their_verdicts(light: Path) -> None:
    write_rows(light / "pairs.jsonl", [{"id": "1", "prompt": "p", "chosen": "c", "rejected": "r"}])
    alignc("adopt", "light.yaml", "labels[seed=1]", "pairs.jsonl", "--store", "s", cwd=light)
    (folder,) = (light / "s" / "label").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["data.jsonl", "manifest.json"]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("rigth", "there is no node 'rigth'; did you mean `right`?"),
        ("score[seed=0]", "score[seed=0] makes Scores: only models and rows of data can be adopted"),
        ("right --map prompt", "`--map prompt` should be FIELD=COLUMN"),
        ("right --map promt=instruction", "there is no field `promt` to map; did you mean `prompt`?"),
    ],
)
def test_what_cannot_be_adopted(light: Path, node: str, message: str) -> None:
    name, *words = node.split(" ")
    told = alignc("adopt", "light.yaml", name, "alpaca.jsonl", *words, "--store", "s", cwd=light, code=2)
    assert message in told and not artifacts(light / "s")


def test_a_node_that_is_made_or_being_made_is_left_alone(light: Path) -> None:
    words = ("adopt", "light.yaml", "right", "alpaca.jsonl", *MAP, "--store", "s")
    plan = json.loads(alignc("plan", "light.yaml", "--format", "json", cwd=light, errors=False))
    (key,) = (n["key"] for n in plan["nodes"] if n["id"] == "right")
    store = Store(light / "s")
    claim = try_claim(store.claim_folder(key))
    assert claim is not None
    assert "right is being worked on" in alignc(*words, cwd=light, code=2)
    claim.release()
    alignc("run", "light.yaml", "--store", "s", cwd=light)
    assert "right is in the store already" in alignc(*words, cwd=light, code=2)
    shutil.rmtree(store.artifact("demonstrate", key))
    assert "in the store already, made from another right" in alignc(*words, cwd=light, code=2)


def test_several_nodes_of_a_chain_may_be_adopted(light: Path) -> None:
    write_rows(light / "pairs.jsonl", [{"id": "1", "prompt": "p", "chosen": "c", "rejected": "r"}])
    alignc("adopt", "light.yaml", "labels[seed=1]", "pairs.jsonl", "--store", "s", cwd=light)
    alignc("adopt", "light.yaml", "right", "alpaca.jsonl", *MAP, "--store", "s", cwd=light)
    assert "6 to run (+), 2 reused (=)" in alignc("plan", "light.yaml", "--store", "s", cwd=light)


# ---------------------------------------------------------------- rows

PROMPT = {"prompt": "p"}
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


@pytest.mark.parametrize(
    ("type_", "rows", "message"),
    [
        ("Prompts", [PROMPT, {"prompt": 3}], ":2: `prompt` must be text, not int"),
        ("Prompts", [PROMPT, PROMPT], ":2: the id '"),
        ("Prompts", [{**PROMPT, "id": 7}], ":1: `id` must be text, not int"),
        ("Prompts", [], "has no rows"),
        ("Completions", [{**PROMPT, "response": "r"}], "`--map completion=response`"),
        ("Demonstrations", [PROMPT], "the fields are prompt: say which it is, `--map completion=COLUMN`"),
        ("Preferences", [PAIR, {**PROMPT, "chosen": "c"}], ":2: there is no field `rejected`"),
        ("Verdicts", [{"preference": 1}], "`id` must be text"),
    ],
)
def test_bad_rows_are_named(type_: str, rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(Unfit) as raised:
        list(check_rows(tmp_path / "rows.jsonl", Port(type_), {}))
    assert message in str(raised.value)


def test_an_array_in_one_file_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{**PAIR, "id": "1"}, {**PAIR, "id": "2"}]))
    assert len(list(check_rows(tmp_path / "rows.json", Port("Preferences"), {}))) == 2
    (tmp_path / "rows.json").write_text("[1]")
    with pytest.raises(Unfit, match="entry 1: a JSON object is needed"):
        list(check_rows(tmp_path / "rows.json", Port("Prompts"), {}))


def test_true_answers_are_asked_for_where_the_source_has_them(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{**PROMPT, "target": "t"}])
    with pytest.raises(Unfit, match="`--map answer=target`"):
        list(check_rows(tmp_path / "rows.jsonl", Port("Prompts", answers=True), {}))


# ---------------------------------------------------------------- models


def checkpoint(folder: Path) -> Path:
    """A folder with the shape of a checkpoint; the weights are one tensor of four bytes."""
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    write_json(folder / "config.json", {"model_type": "llama"})
    write_json(folder / "tokenizer.json", {"version": "1.0"})
    (folder / "optimizer.pt").write_text("large")
    return folder


def test_a_model_is_its_config_tokenizer_and_weights(tmp_path: Path) -> None:
    files = check_model(checkpoint(tmp_path / "m"), "plain")
    assert [p.name for p in files] == ["config.json", "model.safetensors", "tokenizer.json"]


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def sharded(folder: Path) -> None:
    names = {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / names["w"])
    write_json(folder / "model.safetensors.index.json", {"weight_map": names})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is not there; a Hugging Face model has one"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds no JSON object"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is not there; save the tokenizer"),
        (lambda f: (f / "model.safetensors").unlink(), "weights in another format are saved anew"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "no safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "no safetensors file"),
        (cut_off, "is cut off or damaged"),
        (sharded, "model-00002-of-00002.safetensors is missing"),
        (
            lambda f: write_json(f / "alignc.json", {"chat": "chatml"}),
            "in the chat format 'chatml', the node's",
        ),
    ],
)
def test_broken_models_are_named(broken: Any, message: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    broken(folder)
    with pytest.raises(Unfit) as raised:
        check_model(folder, "plain")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("type_", "config", "told"),
    [
        ("Model", {"architectures": ["LlamaForCausalLM"]}, ""),
        ("Model", {"architectures": ["LlamaForSequenceClassification"]}, "a language model is needed"),
        ("RewardModel", {"architectures": ["LlamaForCausalLM"]}, "is no reward model"),
        ("RewardModel", {"architectures": ["LlamaForSequenceClassification"]}, "of one label is needed"),
        ("RewardModel", {"architectures": ["GPT2ForSequenceClassification"], "id2label": {"0": "x"}}, ""),
    ],
)
def test_a_reward_model_is_told_from_a_language_model(
    type_: str, config: dict[str, Any], told: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", config)
    if told:
        with pytest.raises(Unfit, match=told):
            check_head(tmp_path, type_)
    else:
        check_head(tmp_path, type_)


MODEL = """\
experiment: brought
models:
  fresh: {init: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, max_positions: 128}}
sources:
  tasks: {kind: world, size: 40}
  documents: {kind: world, what: documents, size: 40}
stages:
  corpus: {kind: prepare, source: documents}
  prompts: {kind: prepare, source: tasks}
  base: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 1, learning_rate: 1e-3, max_length: 128,
         max_prompt_length: 64}
  samples: {kind: sample, model: base, prompts: prompts, max_new_tokens: 4}
"""


@pytest.mark.slow
@pytest.mark.parametrize("link", [False, True])
def test_an_adopted_model_is_asked(link: bool, tmp_path: Path) -> None:
    from runtime.declare import ModelDecl
    from runtime.job import Input
    from runtime.models import locate

    (tmp_path / "spec.yaml").write_text(MODEL)
    init = {"hidden_size": 48, "layers": 1, "heads": 2, "intermediate_size": 64, "max_positions": 128}
    made = Input(type="Model", name="m", declared=ModelDecl.model_validate({"init": init}))
    folder = locate(made, tmp_path / "mine", lambda: ["a b c d", "Copy the string"]).folder
    (folder / "trainer_state.pt").touch()
    words = ["--link"] * link
    told = alignc("adopt", "spec.yaml", "base", folder, "--store", "s", *words, cwd=tmp_path)
    assert "left out: trainer_state.pt" in told
    (weights,) = (tmp_path / "s" / "sft").rglob("model.safetensors")
    assert weights.samefile(folder / "model.safetensors") is link
    assert read_json(weights.parent / "alignc.json") == {"schema": "alignc.model/1", "chat": "plain"}
    told = alignc("run", "spec.yaml", "--store", "s", cwd=tmp_path)
    assert "3 nodes to run, 1 reused" in told
    (rows,) = (tmp_path / "s" / "sample").rglob("data.jsonl")
    assert len(list(read_rows(rows))) == 40
