"""Takes a checkpoint or data file that was made elsewhere in as the artifact of a node."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compiler.errors import UsageError, near
from compiler.graph import readings
from compiler.output.describe import describe_jobs
from compiler.program import Program
from runtime.artifacts import Port
from runtime.claims import try_claim
from runtime.files import read_json, write_json, write_rows
from runtime.fingerprint import fingerprint
from runtime.interchange.preferences import pair_of
from runtime.job import CHOICE, JobError
from runtime.models import MANIFEST, SCHEMA
from runtime.sources import row_id
from runtime.sources.pick import text
from runtime.sources.records import array_or_lines
from runtime.store import MANIFEST as SEAL
from runtime.store import Store

# Type of artifact -> the fields of text of each row.
ROWS: dict[str, tuple[str, ...]] = {
    "Demonstrations": ("prompt", "completion"),
    "Completions": ("prompt", "completion"),
    "Prompts": ("prompt",),
    "Preferences": ("prompt", "chosen", "rejected"),
    "Verdicts": (),
}
MODELS = ("Model", "RewardModel")
# Field -> what others call it, for the hint.
ALSO_CALLED = {
    "prompt": ("instruction", "question", "query", "input"),
    "completion": ("output", "response", "answer", "text"),
    "chosen": ("preferred", "better"),
    "rejected": ("dispreferred", "worse"),
    "answer": ("solution", "target", "label"),
}
# What a checkpoint's folder may hold beside the model: weights in other formats, states of optimizers.
LEFT_OUT = frozenset((".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack"))
WEIGHTS = "model.safetensors"
CLASSIFIER = "ForSequenceClassification"
INDEX = f"{WEIGHTS}.index.json"


class Unfit(Exception):
    """What was given cannot be the node's artifact; the text says why, and the way out."""


# ---------------------------------------------------------------- rows


def check_rows(path: Path, port: Port, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, each with an id; `names` maps fields to what the file calls them.

    Raises Unfit at the first bad row, and where there is none.
    """
    fields = [*ROWS[port.type], *["answer"] * port.answers]
    for name in names:
        if name not in (*fields, "id"):
            raise Unfit(f"there is no field `{name}` to map; {near(name, (*fields, 'id'))}")
    seen: set[str] = set()
    try:
        for where, record in array_or_lines(path):
            row = _renamed(record, names)
            if port.type == "Preferences" and isinstance(row.get("chosen"), list):
                row |= _of_messages(row, where)
            for field in fields:
                if field not in row:
                    raise Unfit(f"{where}: {_missing(field, record)}")
                text(row[field], field, where)
            if "id" not in row and "prompt" in row:
                row = {"id": row_id(row), **row}
            identity = text(row.get("id"), "id", where)
            if identity in seen:
                raise Unfit(
                    f"{where}: the id {identity!r} stands twice; rows need an `id` each, or other prompts"
                )
            seen.add(identity)
            yield row
    except JobError as error:
        raise Unfit(str(error)) from error
    if not seen:
        raise Unfit(f"{path} has no rows")


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    rest = {name: value for name, value in record.items() if name not in names.values()}
    return {**rest, **{new: record[old] for new, old in names.items() if old in record}}


def _of_messages(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """Prompt and answers of a pair in messages, as text."""
    found = pair_of(row, where)
    if isinstance(found, str):
        raise Unfit(
            f"{where}: a pair needs one prompt of one turn ({found}); a source of the kind `preferences` "
            "leaves such rows out"
        )
    return found


def _missing(field: str, record: Mapping[str, Any]) -> str:
    there = ", ".join(record) or "none at all"
    guess = next((name for name in ALSO_CALLED.get(field, ()) if name in record), "COLUMN")
    return f"there is no field `{field}`; the fields are {there}: say which it is, `--map {field}={guess}`"


# ---------------------------------------------------------------- models


def check_model(folder: Path, chat: str | None) -> list[Path]:
    """The files that make up a Hugging Face model. Raises Unfit where one is missing or broken."""
    if not folder.is_dir():
        raise Unfit(f"{folder} is no folder; a model is one, with config.json, tokenizer and weights")
    _object(folder / "config.json", "a Hugging Face model has one")
    _object(
        folder / "tokenizer.json",
        "save the tokenizer there, with transformers: "
        "`AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER)`",
    )
    for weights in _weights(folder):
        _check_weights(weights)
    if (folder / MANIFEST).is_file():
        told = _object(folder / MANIFEST, "").get("chat")
        if told != chat:
            raise Unfit(f"{folder} was trained in the chat format {told!r}, the node's is {chat!r}")
    return sorted(p for p in folder.iterdir() if p.is_file() and _belongs(p))


def check_head(folder: Path, type_: str) -> None:
    """Raise Unfit where a language model is given for a reward model, or the other way round."""
    told = _object(folder / "config.json", "")
    classifies = any(str(name).endswith(CLASSIFIER) for name in told.get("architectures") or ())
    if type_ == "Model" and classifies:
        raise Unfit(f"{folder} is a sequence classifier, and a language model is needed")
    if type_ == "RewardModel" and not (classifies and len(told.get("id2label") or ()) == 1):
        raise Unfit(f"{folder} is no reward model: a sequence classifier of one label is needed")


def _belongs(path: Path) -> bool:
    return not (path.name.startswith(".") or path.name == SEAL or path.suffix in LEFT_OUT)


def _object(path: Path, hint: str) -> dict[str, Any]:
    if not path.is_file():
        raise Unfit(f"{path} is not there; {hint}")
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise Unfit(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Unfit(f"{path} holds no JSON object")
    return found


def _weights(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        shards = _object(folder / INDEX, "").get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise Unfit(f"{folder / INDEX} names no files of weights")
        return [folder / str(name) for name in sorted(set(shards.values()))]
    if not (folder / WEIGHTS).is_file():
        raise Unfit(
            f"{folder / WEIGHTS} is not there; weights in another format are saved anew with transformers: "
            "`AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
        )
    return [folder / WEIGHTS]


def _check_weights(path: Path) -> None:
    """Read the header of a safetensors file: eight bytes with its length, then JSON; the data follow."""
    try:
        with path.open("rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            header: dict[str, Any] = json.loads(file.read(min(length, size)))
        ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
        whole = bool(ends) and 8 + length + max(ends) == size
    except (OSError, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise Unfit(f"{path} is missing or no safetensors file; fetch or save it again") from error
    if not whole:
        raise Unfit(f"{path} is cut off or damaged: its header tells another size; fetch or save it again")


# ---------------------------------------------------------------- the node


def find_node(program: Program, name: str) -> int:
    """The index of a node. Raises UsageError."""
    ids = [node.id for node in program.graph.nodes]
    if name not in ids:
        raise UsageError(f"there is no node {name!r}; {near(name, ids)}")
    return ids.index(name)


def _sources(program: Program, index: int, path: Path) -> list[tuple[str, Port, Path]]:
    """Place inside the artifact, what belongs there, and the file or folder to take for it."""
    node = program.graph.nodes[index]
    places = {b.path: b.port for output in node.outputs for b in readings((node,), (0,), output)}
    for place, port in places.items():
        if place == CHOICE:
            raise Unfit(f"{node.id} is a choice: adopt its candidates, and let it choose")
        if port.type not in MODELS and port.type not in ROWS:
            raise Unfit(f"{node.id} makes {port.type}: only models and rows of data can be adopted")
    if len(places) > 1:
        main = node.outputs[""].path if "" in node.outputs and path.is_file() else None
        found = {place: path if place == main else path / place for place in places}
    else:
        found = dict.fromkeys(places, path)
    read = {b.path for n in program.graph.nodes for bs in n.inputs.values() for b in bs if b.node == index}
    for place, port in places.items():
        if found[place].exists():
            continue
        if port.type == "Verdicts" and place not in read:  # for readers of reports only
            del found[place]
        elif len(places) > 1:
            raise Unfit(f"{node.id} has several outputs: give a folder that holds {', '.join(places)}")
        else:
            raise Unfit(f"{path} is not there")
    return [(place, places[place], source) for place, source in found.items()]


def _require_room(program: Program, index: int, store: Store) -> None:
    """Raise Unfit where the node, or anything made from it, is in the store already."""
    node, sealed = program.graph.nodes[index], store.sealed()
    if program.keys[index] in sealed:
        raise Unfit(
            f"{node.id} is in the store already, and an artifact is never replaced: "
            "take a fresh `--store`, or declare yours in the spec, under `models` or `sources`"
        )
    _require_choices(program, index, sealed)
    after = {index}
    for i, other in enumerate(program.graph.nodes):
        if after.isdisjoint(other.reads):
            continue
        key = program.keys[i]
        if key not in sealed:
            after.add(i)
        elif "adopted" not in store.manifest(other.kind.name, key):  # that was made from nothing here
            raise Unfit(
                f"{other.id} is in the store already, made from another {node.id}: take a fresh `--store`"
            )


def _require_choices(program: Program, index: int, sealed: frozenset[str]) -> None:
    """Raise Unfit where the node comes after a choice that is not made: its key is not known yet."""
    nodes = program.graph.nodes
    before = {index}
    for i in range(index, -1, -1):
        if i in before:
            before.update(nodes[i].reads)
            if nodes[i].is_choice and program.keys[i] not in sealed and i != index:
                way_out = f"run `--select +{nodes[i].stage}` first, or adopt its candidates"
                raise Unfit(
                    f"{nodes[index].id} comes after the choice {nodes[i].id}, not made yet: {way_out}"
                )


# ---------------------------------------------------------------- taking it in


def adopt(
    program: Program, store: Store, index: int, path: Path, names: Mapping[str, str], *, link: bool
) -> list[str]:
    """Seal a file or folder as the artifact of a node; returns what was left out of it.

    names: field -> what the file calls it. link: weights become hard links where the file system can.
    Raises UsageError where it does not fit, or the node is not free.
    """
    node, key = program.graph.nodes[index], program.keys[index]
    try:
        _require_room(program, index, store)
        sources = _sources(program, index, path)
        claim = try_claim(store.claim_folder(key))
        if claim is None:
            raise Unfit(f"{node.id} is being worked on; `alignc status` tells where")
        out = store.work(key) / f"out.{claim.generation}"
        try:
            _require_room(program, index, store)
            left_out = {name for source in sources for name in _take(out, *source, names, link=link)}
            manifest = _manifest(program, index, path.absolute(), store)
            claim.check()
            store.seal(node.kind.name, key, out, manifest)
            store.failure(key).unlink(missing_ok=True)
        finally:
            shutil.rmtree(out, ignore_errors=True)
            claim.release()
    except Unfit as error:
        raise UsageError(str(error)) from error
    except (OSError, UnicodeEncodeError) as error:
        raise UsageError(f"{path} cannot be taken in: {error}") from error
    store.discard_work(key)
    return sorted(left_out)


def _take(
    out: Path, place: str, port: Port, source: Path, names: Mapping[str, str], *, link: bool
) -> set[str]:
    """Check one source and put it at its place; returns the names of what was left out."""
    target = out / place
    target.parent.mkdir(parents=True, exist_ok=True)
    if port.type not in MODELS:
        write_rows(target, check_rows(source, port, names))
        return set()
    files = check_model(source, port.chat)
    check_head(source, port.type)
    target.mkdir(exist_ok=True)
    for file in files:
        _put(file, target / file.name, link=link and file.suffix == ".safetensors")
    if not (target / MANIFEST).exists():
        write_json(target / MANIFEST, {"schema": SCHEMA, "chat": port.chat})
    return {p.name for p in source.iterdir()} - {f.name for f in files}


def _put(source: Path, target: Path, *, link: bool) -> None:
    if link:
        with contextlib.suppress(OSError):  # another file system, or one without hard links
            os.link(source.resolve(), target)
            return
    shutil.copyfile(source, target)


def _manifest(program: Program, index: int, path: Path, store: Store) -> dict[str, Any]:
    """As a job's, but that it says who took what in; nothing is told of a machine that did no work."""
    told = next(d for i, d in enumerate(describe_jobs(program)) if i == index)
    kept = ("kind", "key", "recipe", "id", "config", "inputs", "spec")
    return {
        **{name: told[name] for name in kept},
        "environment": {},
        "resources": {"asked": told["resources"], "used": {}},
        "summary": {},
        "adopted": {
            "path": str(path),
            "digest": fingerprint(path, store.root / ".fingerprints.json"),
            "by": _user(),
            "time": time.time(),
        },
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an id without a name
        return str(os.getuid())
