"""Bundles a study for others: its files, what made it, its results and, if wanted, its artifacts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from compiler.errors import UsageError
from compiler.graph import Node
from compiler.output.describe import describe_tables
from compiler.output.fresh import fresh_folder
from compiler.program import Program, input_files
from runtime.files import read_json, write_json
from runtime.provenance import code_version
from runtime.store import MANIFEST, Store
from runtime.templates import fill

SCHEMA = "alignc.lock/1"
LOCK = "lock.json"
With = Literal["nothing", "scores", "data", "all"]
# What only `all` holds; choices among them are a line of text, and always held.
LARGE = frozenset({"Model", "RewardModel"})


def publish(program: Program, store: Store, folder: Path, held: With, words: str) -> tuple[int, int]:
    """Write a bundle; it appears whole or not at all. Returns how many artifacts it holds, and their bytes.

    words: what follows `alignc run` to run the spec, beside `--store`. Raises UsageError where the folder
    holds anything, or where nothing is made yet.
    """
    from runtime.results.everything import load_results
    from runtime.results.write import write_loaded

    nodes = dict(_sealed(program, store))
    if not nodes:
        raise UsageError("nothing of this study is made yet: `alignc run` or `alignc submit` it first")
    with fresh_folder(folder) as draft:
        lacking = _copy_files(program, draft, data=held in ("data", "all"))
        write_json(draft / LOCK, _lock(program, store, nodes, lacking))
        for index, key in nodes.items():
            kind = program.graph.nodes[index].kind.name
            write_json(draft / "manifests" / kind / f"{key}.json", store.manifest(kind, key))
        kept = [index for index in nodes if _is_held(program.graph.nodes[index], held)]
        size = sum(_copy_artifact(program, store, draft, index, nodes[index]) for index in kept)
        if program.tables:
            write_loaded(store, load_results(store, describe_tables(program)), draft / "results")
        readme = fill(
            "export/bundle.md.j2",
            experiment=program.spec.experiment,
            words=words,
            lacking=lacking,
            held=held,
            whole=len(kept) == len(program.graph.nodes),
            tables=bool(program.tables),
        )
        (draft / "README.md").write_text(readme, encoding="utf-8")
    return len(kept), size


def _sealed(program: Program, store: Store) -> Iterator[tuple[int, str]]:
    """Nodes that are made, with the key that each was sealed under."""
    for index, (node, key) in enumerate(zip(program.graph.nodes, program.keys, strict=True)):
        found = store.locate(node.kind.name, key)
        if found is not None:
            yield index, found


def _is_held(node: Node, held: With) -> bool:
    types = {port.type for port in node.outputs.values()}
    if held in ("nothing", "all"):
        return held == "all"
    return node.is_choice or (types == {"Scores"} if held == "scores" else not types & LARGE)


def _copy_artifact(program: Program, store: Store, draft: Path, index: int, key: str) -> int:
    """Copy a sealed artifact, and what tells that a job was sealed under this key. Returns its bytes."""
    node, asked, bundle = program.graph.nodes[index], program.identities[index].asked, Store(draft / "store")
    store.verify(node.kind.name, key, digests=True)
    target = bundle.artifact(node.kind.name, key)
    if not target.exists():
        shutil.copytree(store.artifact(node.kind.name, key), target)
    for name in {asked, program.keys[index]} - {key, ""}:
        if store.realised(name).exists():
            bundle.realised(name).parent.mkdir(exist_ok=True)
            shutil.copyfile(store.realised(name), bundle.realised(name))
    return sum(file["bytes"] for file in read_json(target / MANIFEST)["files"])


# ---------------------------------------------------------------- files


def _copy_files(program: Program, draft: Path, *, data: bool) -> list[str]:
    """Copy the files of a spec to where they stand to each other; returns the data that is not copied."""
    own = [Path(name).resolve() for name in program.texts if Path(name).is_file()]
    own += [path for path in _published(program) if path.is_file()]
    root = _root(own)
    for path in own:
        _copy(path, draft / path.relative_to(root))
    lacking: list[str] = []
    for path in input_files(program):
        if data and path.is_relative_to(root) and path.exists():
            _copy(path, draft / path.relative_to(root))
        else:
            lacking.append(os.path.relpath(path, root) if path.is_relative_to(root) else str(path))
    return lacking


def _root(files: list[Path]) -> Path:
    """Where the user stands, if all files are below; else what they have in common."""
    here = Path.cwd()
    if all(path.is_relative_to(here) for path in files):
        return here
    return Path(os.path.commonpath([path.parent for path in files]))


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, target)


def _published(program: Program) -> Iterator[Path]:
    for table, body in program.spec.tables.values():
        if table.published is not None:
            beside = body.find(("published", "file"))[0].span.file
            yield (Path(beside).parent / table.published.file).resolve()


# ---------------------------------------------------------------- lock


def _lock(program: Program, store: Store, nodes: Mapping[int, str], lacking: list[str]) -> dict[str, Any]:
    """What made the study: versions, the keys of all nodes, the digests of all files of what is made."""
    return {
        "schema": SCHEMA,
        "experiment": program.spec.experiment,
        "alignc": {"version": version("alignc"), **code_version(Path(__file__).parent)},
        "environments": _environments(program, store, nodes),
        "data": lacking,
        "nodes": [
            {
                "id": node.id,
                "kind": node.kind.name,
                "version": node.kind.version,
                "key": nodes.get(index, program.keys[index]),
                "made": index in nodes,
            }
            for index, node in enumerate(program.graph.nodes)
        ],
    }


def _environments(program: Program, store: Store, nodes: Mapping[int, str]) -> list[dict[str, Any]]:
    """The packages that jobs ran with, each set once; no hosts."""
    found: list[dict[str, Any]] = []
    for index, key in nodes.items():
        told = store.manifest(program.graph.nodes[index].kind.name, key).get("environment") or {}
        shown = {name: told[name] for name in ("python", "platform", "packages", "alignc") if name in told}
        if shown and shown not in found:
            found.append(shown)
    return found
