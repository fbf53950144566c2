"""The contract of keys: a corpus of specs whose keys change only together with a version."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from compiler.program import Program, compile_spec
from runtime import templates
from runtime.identity import HASH_VERSION, recipe_key, trajectory_key
from runtime.stage import stage_kinds
from tests.compiler.specs import HEAD, STUDY, compile_text, node_ids
from tests.golden import GOLDEN
from tests.specs import LIGHT, TINY

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "keys.md").read_text()

# What the others have not: every kind, and the settings that shape a recipe in a way of their own.
REST = (
    HEAD.replace("llms: {", "llms: {judge: {provider: openai, model: gpt-4-0613}, ")
    + """\
axes: {base: {small: {epochs: 2}, large: {epochs: 4}}}
stages:
  prompts: {kind: prepare, source: tasks, split: {a: 40%, b: 40%, validation: 20%}, seed: 1}
  nested: {kind: prepare, source: prompts.a, split: {x: 50%, y: 50%}}
  answers: {kind: demonstrate, prompts: prompts.b, teacher: weak, temperature: 0.5, seed: 3}
  run: {kind: sft, model: tiny, data: answers, epochs: "${base.epochs}", checkpoint_every: 2, horizon: 6,
        schedule: cosine, learning_rate: 1e-4, reduction: example_sum, optimizer: rmsprop}
  draws: {kind: sample, model: run, prompts: prompts.a, top_p: 0.9}
  wrote: {kind: demonstrate, prompts: prompts.a, teacher: weak}
  labels: {kind: label, critic: judge, a: wrote, b: draws, order: both}
  known: {kind: reference, model: run, data: labels}
  tuned: {kind: dpo, model: run, data: labels, reference: known, epochs: 1, learning_rate: 1e-6, loss: ipo}
  prize: {kind: reward, model: run, data: labels, epochs: 2, learning_rate: 1e-5, centering: 0.01}
  again: {kind: sample, model: run, prompts: prompts.validation, sweep: {seed: [0, 1]}}
  ranks: {kind: rank, from: again, model: prize, least: 0.1}
  agreed: {kind: score, model: prize, data: ranks, truncation: keep_end}
  exam: {kind: evaluate, model: tuned, prompts: prompts.validation}
  best: {kind: select, from: run, by: exam.accuracy, mode: min, ties: last}
  toy: {kind: bandit, exact: true}
"""
)
TEXTS = {"study": STUDY, "light": LIGHT, "tiny": TINY, "rest": REST}


def versions(program: Program) -> dict[str, Any]:
    """Everything by which a change of keys announces itself."""
    used = sorted({name for i in program.identities for name in i.recipe["templates"]})
    return {
        "hash": HASH_VERSION,
        "kinds": {name: kind.version for name, kind in sorted(stage_kinds().items())},
        "templates": {name: templates.digest(name)[:12] for name in used},
    }


def check(name: str, program: Program) -> None:
    """Compare with the pinned keys. They are never kept anew while no version has changed."""
    path = GOLDEN / "keys" / f"{name}.json"
    now = {
        "versions": versions(program),
        "keys": dict(zip(node_ids(program), program.keys, strict=True)),
    }
    if path.exists():
        kept = json.loads(path.read_text())
        moved = [i for i, key in kept["keys"].items() if now["keys"].get(i, key) != key]
        assert not moved or kept["versions"] != now["versions"], (
            f"keys of {moved[:3]} changed and no version did: every store in use would be made again. "
            "Raise HASH_VERSION or the kind's version, and tell in docs/keys.md what becomes of artifacts"
        )
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(now, indent=1) + "\n")
    assert json.loads(path.read_text()) == now, f"{path} differs: UPDATE_GOLDEN=1 pytest updates it"


@pytest.mark.parametrize("name", TEXTS)
def test_keys_of_the_corpus(name: str, tmp_path: Path) -> None:
    check(name, compile_text(tmp_path, TEXTS[name]))


def test_keys_of_the_quickstart() -> None:
    check("quickstart", compile_spec(str(ROOT / "specs" / "quickstart.yaml")))


def test_the_corpus_has_every_kind() -> None:
    assert all(f"kind: {name}," in "".join(TEXTS.values()) for name in stage_kinds())


def test_every_version_has_an_entry() -> None:
    assert f"| hash {HASH_VERSION} |" in DOC
    for name, kind in stage_kinds().items():
        assert kind.version == 1 or f"`{name}` {kind.version}" in DOC, (
            f"docs/keys.md on {name} {kind.version}"
        )


def test_keys_are_the_hashes_of_their_recipes(tmp_path: Path) -> None:
    program = compile_text(tmp_path, REST)
    for node, identity in zip(program.graph.nodes, program.identities, strict=True):
        assert identity.key == recipe_key(identity.recipe)
        if node.kind.prefix:
            assert identity.trajectory == trajectory_key(identity.recipe, node.kind.prefix)
