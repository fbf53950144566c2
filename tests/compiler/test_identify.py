"""Keys: what changes them, what does not, and the values that are promised to stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.fields import affects, taken
from runtime.stage import kind_names, stage_kind
from tests.compiler.specs import STUDY, compile_text, node_ids


def keys(tmp_path: Path, text: str, *overrides: str) -> dict[str, str]:
    program = compile_text(tmp_path, text, *overrides)
    return dict(zip(node_ids(program), program.keys, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.replace("answers", "completions"), id="a stage's name"),
        pytest.param(lambda t: t.replace("weak", "feeble"), id="an llm's name"),
        pytest.param(lambda t: t.replace("seed: [0, 1]", "seed: [0, 1]  # two"), id="a comment"),
        pytest.param(lambda t: t.replace("epochs: 6", "note: six\n    epochs: 6"), id="a note"),
        pytest.param(lambda t: t.replace("epochs: 6", "resources: {cpus: 2}\n    epochs: 6"), id="resources"),
        pytest.param(lambda t: t.replace("epochs: 6", "micro_batch: 2\n    epochs: 6"), id="micro-batch"),
        pytest.param(
            lambda t: t.replace("epochs: 6", "parallel: {processes: 2}\n    epochs: 6"), id="processes"
        ),
        pytest.param(
            lambda t: t.replace("epochs: 6", "weight_decay: 0\n    epochs: 6"), id="a default written out"
        ),
        pytest.param(lambda t: t.replace("Does feedback help?", "Well?"), id="a caption"),
    ],
)
def test_meaningless_changes_keep_every_key(tmp_path: Path, change) -> None:
    before, after = keys(tmp_path, STUDY), keys(tmp_path, change(STUDY))
    assert list(before.values()) == list(after.values())


def test_a_change_moves_the_keys_of_what_follows_and_no_other(tmp_path: Path) -> None:
    before = keys(tmp_path, STUDY)
    after = keys(tmp_path, STUDY, "stages.rlaif.beta=0.2")
    changed = {node.partition("[")[0] for node in before if before[node] != after[node]}
    assert changed == {"rlaif", "rlaif_test~samples", "rlaif_test"}


@pytest.mark.parametrize("kind", kind_names())
def test_every_field_says_what_it_affects(kind: str) -> None:
    stage = stage_kind(kind)
    assert stage is not None
    for name, info in stage.config.model_fields.items():
        assert affects(info) in ("result", "speed", "nothing"), f"{kind}.{name}"
        assert info.description, f"{kind}.{name} has no description"
        saves_work = (kind, name) == ("dpo", "reference")  # it follows from the other inputs
        assert not taken(info) or affects(info) == ("speed" if saves_work else "result")


def test_every_declaration_field_says_what_it_affects() -> None:
    from runtime import declare

    models = [m for m in vars(declare).values() if isinstance(m, type) and hasattr(m, "model_fields")]
    for model in models:
        for name, info in model.model_fields.items():
            assert affects(info) in ("result", "speed", "nothing"), f"{model.__name__}.{name}"


def test_the_content_of_a_source_is_part_of_its_key(tmp_path: Path) -> None:
    text = (
        "experiment: e\nsources: {s: {kind: jsonl, path: s.jsonl}}\nstages: {p: {kind: prepare, source: s}}"
    )
    (tmp_path / "s.jsonl").write_text('{"prompt": "a"}\n')
    first = keys(tmp_path, text)
    (tmp_path / "s.jsonl").write_text('{"prompt": "b"}\n')
    assert keys(tmp_path, text) != first
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "t.jsonl").write_text('{"prompt": "a"}\n')
    assert keys(tmp_path, text, f"sources.s.path={tmp_path}/moved/t.jsonl") == first


def test_equal_work_in_two_stages_has_one_key(tmp_path: Path) -> None:
    text = STUDY.replace(
        "tables:", "  answers2: {kind: demonstrate, prompts: prompts.sft, teacher: weak}\ntables:"
    )
    found = keys(tmp_path, text)
    assert found["answers"] == found["answers2"]


def test_the_text_of_a_template_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime import templates

    before = keys(tmp_path, STUDY)
    real = templates.digest
    monkeypatch.setattr(
        templates, "digest", lambda name: "new" if name == "judge/pairwise.j2" else real(name)
    )
    after = keys(tmp_path, STUDY)
    changed = {node.partition("[")[0] for node in before if before[node] != after[node]}
    assert {"labels", "sft_test", "rlaif", "rlaif_test"} <= changed
    assert not {"tune", "samples", "answers", "best"} & changed
