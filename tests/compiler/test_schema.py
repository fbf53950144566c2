"""The schema for editors and the models that check specs say the same, and the schema never says more."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from compiler.errors import SpecError
from compiler.frontend.source import parse
from compiler.frontend.spec import TOP, Budget, TableSpec
from compiler.manual.schema import profile_schema, spec_schema
from compiler.site.profile import Profile
from runtime import declare
from runtime.fields import result
from runtime.stage import StageConfig, StageKind, stage_kind, stage_kinds
from tests.commands import alignc
from tests.compiler.specs import HEAD, STUDY, compile_text
from tests.golden import GOLDEN
from tests.specs import LIGHT, TINY

ROOT = Path(__file__).parents[2]
SCHEMA = spec_schema(stage_kinds().values())
CHECKER = jsonschema.Draft7Validator(SCHEMA)
MODELINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")


def plain(text: str) -> Any:
    tree, problems = parse(text, "spec.yaml")
    assert tree is not None and not problems
    return tree.plain()


def marked(text: str) -> list[str]:
    """Where an editor would mark a spec: dotted paths with the word that is broken there."""
    return [
        ".".join(map(str, [*e.absolute_path, e.validator]))
        for e in _deepest(CHECKER.iter_errors(plain(text)))
    ]


def _deepest(errors: Any) -> Iterator[Any]:
    for error in errors:
        yield from _deepest(error.context) if error.context else [error]


# ---------------------------------------------------------------- every field is there


def models(type_: Any) -> Iterator[type[BaseModel]]:
    """All models that a type holds, at any depth."""
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        yield type_
        for info in type_.model_fields.values():
            yield from models(info.annotation)
    for argument in get_args(type_):
        yield from models(argument)


def definition(model: type[BaseModel]) -> dict[str, Any]:
    """The definition of a model: the one that has its fields."""
    kinds = [f"kind.{kind.name}" for kind in stage_kinds().values() if model in (kind.config, kind.shorthand)]
    names = [*kinds, model.__name__, f"stage.{model.__name__}"]
    return next(SCHEMA["definitions"][name] for name in names if name in SCHEMA["definitions"])


KINDS = [model for kind in stage_kinds().values() for model in (kind.config, kind.shorthand) if model]
MODELS = list(
    dict.fromkeys(m for t in [*KINDS, declare.ModelDecl, declare.Source, declare.LLM] for m in models(t))
)


@pytest.mark.parametrize("model", [*MODELS, *models(TableSpec), Budget], ids=lambda m: m.__name__)
def test_every_field_appears_with_its_description(model: type[BaseModel]) -> None:
    properties = definition(model)["properties"]
    for name, info in model.model_fields.items():
        key = info.alias or name
        assert key in properties
        if key != "kind":  # of a stage: known by its case
            assert (info.description or "?") in properties[key]["description"], key


def test_every_field_of_a_profile_appears() -> None:
    made = profile_schema()["definitions"]["Profile"]
    assert {k: p["description"].partition("\n")[0] for k, p in made["properties"].items()} == {
        k: info.description for k, info in Profile.model_fields.items()
    }


def test_every_section_and_every_kind_appears() -> None:
    assert set(SCHEMA["properties"]) == set(TOP)
    stage = SCHEMA["definitions"]["stages"]
    assert stage["properties"]["kind"]["enum"] == list(stage_kinds())
    assert all(stage["properties"]["kind"]["enumDescriptions"])


def test_it_is_draft_07() -> None:
    for schema in (SCHEMA, profile_schema()):
        jsonschema.Draft7Validator.check_schema(schema)
        assert not re.search(
            r'"(\$defs|prefixItems|discriminator|unevaluatedProperties)"', json.dumps(schema)
        )


def test_patterns_mean_the_same_in_javascript() -> None:
    """Editors compile them with the flag `u`, which knows neither inline flags nor needless escapes."""
    patterns = re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(SCHEMA))
    for pattern in set(map(json.loads, patterns)):
        assert "(?" not in pattern and not re.search(r"\\[^$\\/.\[\]{}()*+?|^dsn]", pattern), pattern


# ---------------------------------------------------------------- what is right passes


SPECS = ROOT / "specs"
SHIPPED = sorted(path for path in SPECS.rglob("*.yaml") if path.parent.name != "clusters")


@pytest.mark.parametrize("text", [STUDY, LIGHT, TINY, HEAD], ids=["study", "light", "tiny", "head"])
def test_specs_of_the_tests_pass(text: str) -> None:
    assert marked(text) == []


@pytest.mark.parametrize("spec", SHIPPED, ids=lambda p: str(p.relative_to(SPECS)))
def test_shipped_specs_pass_and_name_the_schema(spec: Path) -> None:
    text = spec.read_text()
    assert marked(text) == []
    named = MODELINE.match(text)
    assert named and (spec.parent / named[1]).resolve() == ROOT / "docs" / "spec.schema.json"


def test_the_shipped_profile_passes_and_names_its_schema() -> None:
    profile = ROOT / "specs" / "clusters" / "example.yaml"
    jsonschema.validate(plain(profile.read_text()), profile_schema())
    named = MODELINE.match(profile.read_text())
    assert named and (profile.parent / named[1]).resolve() == ROOT / "docs" / "profile.schema.json"


def test_a_modeline_changes_no_key(tmp_path: Path) -> None:
    line = "# yaml-language-server: $schema=.alignc/spec.schema.json\n"
    assert compile_text(tmp_path, line + STUDY).keys == compile_text(tmp_path, STUDY).keys


STAGE = (
    HEAD
    + "axes: {seed: [0, 1], size: {small: {lr: 1e-3, betas: [0.9, 0.99], few: {cpus: 2}}}}\n"
    + (
        "stages:\n"
        "  p: {kind: prepare, source: tasks, split: {sft: 10%, val: 200, test: rest}}\n"
        "  d: {kind: demonstrate, prompts: p.sft, teacher: weak}\n"
        "  s: {kind: sft, model: tiny, data: d, epochs: 2, learning_rate: 1e-3}\n"
    )
)


@pytest.mark.parametrize(
    "stage",
    [
        '{kind: sft, model: tiny, data: d, epochs: 1, learning_rate: "${size.lr}", seed: "${seed}"}',
        '{kind: sft, model: tiny, data: d, epochs: 1, learning_rate: "1e-${seed}", betas: "${size.betas}"}',
        '{kind: sft, model: tiny, data: d, epochs: "3", learning_rate: 1, resources: "${size.few}"}',
        "{kind: sft, model: tiny, data: d, sweep: {epochs: [1, 2], learning_rate: [1e-3, 1e-4]}}",
        "{kind: sft, model: tiny, data: d, epochs: 2.0, learning_rate: true, checkpoint_every: null}",
        "{kind: prepare, source: tasks, shuffle: no, split: null}",
        '{kind: sample, model: {stage: s}, prompts: {stage: "p.${seed}"}}'.replace("${seed}", "val"),
        "{kind: evaluate, model: s, prompts: p.val, temperature: 0.7, sweep: {max_new_tokens: [8, 16]}}",
        "{kind: evaluate, sweep: {completions: [one, two]}}",
    ],
)
def test_what_the_compiler_takes_passes(tmp_path: Path, stage: str) -> None:
    samples = (
        "  one: {kind: sample, model: s, prompts: p.val}\n  two: {kind: sample, model: s, prompts: p.test}\n"
    )
    text = f"{STAGE}{samples}  it: {stage}\n"
    compile_text(tmp_path, text)
    assert marked(text) == []


def test_files_of_an_include_need_not_be_whole(tmp_path: Path) -> None:
    library = STAGE.replace("experiment: small\n", "").replace(", epochs: 2", "")
    including = "experiment: two\ninclude: [library.yaml]\nstages: {s: {epochs: 3}, d: {temperature: 0.5}}\n"
    (tmp_path / "library.yaml").write_text(library)
    compile_text(tmp_path, including)
    assert marked(library) == [] and marked(including) == []
    assert marked("experiment: two\nstages: {s: {epochs: 3}}\n") == ["stages.s.required"]


# ---------------------------------------------------------------- what is wrong is marked


MISTAKES = {
    "names": [  # each mistake of tests/golden/errors/names.yaml that needs no other stage to be seen
        "additionalProperties",  # stage
        "models.tiny.init.additionalProperties",
        "llms.weak.provider.enum",
        "llms.gpt.required",
        "stages.answers.kind.enum",
        "stages.kindless.required",
    ],
    "values": [
        "llms.critic.error_rate.maximum",
        "stages.tune.learning_rate.pattern",
        "stages.tune.additionalProperties",  # epchs
    ],
    "axes": ["stages.both.sweep.additionalProperties", "stages.c.learning_rate.pattern"],
    "types": [],
}


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_golden_mistakes_are_marked(name: str) -> None:
    text = (GOLDEN / "errors" / f"{name}.yaml").read_text()
    if name == "values":
        text = text.replace(", seed: 0, seed: 1", "")  # a key that stands twice is no matter of schemas
    found = marked(text)
    assert [m for m in MISTAKES[name] if m not in found] == []
    assert bool(found) == bool(MISTAKES[name])


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        ("{kind: sft, model: tiny, data: d, epochs: 0, learning_rate: 1}", "epochs.minimum"),
        ("{kind: sft, model: tiny, data: d, epochs: 1.5, learning_rate: 1}", "epochs.type"),
        ("{kind: sft, model: tiny, data: d, epochs: 1, learning_rate: [1, 2]}", "learning_rate.type"),
        ("{kind: sft, model: tiny, data: d, epochs: 1}", "required"),
        ("{kind: sft, model: tiny, data: d, epochs: 1, learning_rate: 1, schedule: cosin}", "schedule.enum"),
        ("{kind: sft, model: tiny, data: d, epochs: 1, learning_rate: 1, betas: [0.9]}", "betas.minItems"),
        (
            "{kind: sft, model: tiny, data: d, epochs: 1, learning_rate: 1, resources: {gpu: 1}}",
            "resources.additionalProperties",
        ),
        (
            "{kind: sft, model: tiny, data: d, epochs: 1, sweep: {learning_rate: [1e-3, fast]}}",
            "sweep.learning_rate.1.pattern",
        ),
        ("{kind: prepare, source: tasks, shuffle: maybe}", "shuffle.pattern"),
        ("{kind: prepare, source: tasks, split: {a: 10 percent}}", "split.a.pattern"),
        ("{kind: prepare, source: tasks, split: {a: 10%}, roles: {a: tset}}", "roles.a.enum"),
        ("{kind: sample, model: s, prompts: {stage: p.val, att: {}}}", "prompts.additionalProperties"),
        ("{kind: evaluate, model: s, prompts: p.val, max_new_token: 3}", "additionalProperties"),
        ("{kind: evaluate, prompts: p.val}", "required"),
    ],
)
def test_mistakes_are_marked(tmp_path: Path, stage: str, place: str) -> None:
    text = f"{STAGE}  it: {stage}\n"
    assert f"stages.it.{place}" in marked(text)
    with pytest.raises(SpecError):
        compile_text(tmp_path, text)


# ---------------------------------------------------------------- the schema is never stricter


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield from places(value, (*path, key))


# Everything that a spec may say, so that a mutation may hit it.
FULL = (
    STUDY
    + """\
  other:
    rows: seed
    columns: {A: sft_test.win_rate}
cluster: mine
budget: {gpu_hours: 10}
"""
)
TREES = [plain(FULL), plain((ROOT / "specs" / "quickstart.yaml").read_text())]
TREES[0]["llms"]["asked"] = {
    "provider": "openai",
    "model": "m",
    "limits": {"concurrency": 2, "timeout_s": 1.5},
}
TREES[0]["llms"]["local"] = {"provider": "local", "model": {"hub": "a/b", "chat": "plain"}}
TREES[0]["sources"]["rows"] = {"kind": "jsonl", "path": "x.jsonl", "completion": "completion"}
TREES[0]["stages"]["best"] |= {"over": ["epoch", "learning_rate"], "mode": "max"}
TREES[0]["stages"]["rlaif"] |= {
    "betas": [0.9, 0.99],
    "resources": {"gpus": 1, "minutes": 5},
    "parallel": {"processes": 1},
}

NUMBERS = ["3", "1e-3", " 7 ", "1_000", "inf", "-nan", "yes", "off", "T", "true", "10%"]
WORDS = ["", "x", "None", "${seed}", "${seed}1", "${", "rest", "adamw", "linear", "sft", "dpo", "simulated"]
TEXTS = [*NUMBERS, *WORDS, "test", "prompts.sft", "Prüfung", "a b"]
scalars = st.one_of(
    st.sampled_from([None, True, False, 0, 1, 2, -1, 0.5, 3.0, float("inf"), float("nan"), *TEXTS]),
    st.integers(-1000, 1000),
    st.floats(-1000, 1000),
    st.text(max_size=4),
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.sampled_from(["stage", "at", "a", "seed", "kind", "path"]), scalars, max_size=2),
)


@st.composite
def mutated(draw: Callable[..., Any]) -> Any:
    """A good spec in which one value is replaced, taken away, moved to another key, or doubled elsewhere."""
    tree = copy.deepcopy(draw(st.sampled_from(TREES)))
    *path, last = draw(st.sampled_from([p for p in places(tree) if p]))
    here = tree
    for step in path:
        here = here[step]
    edit = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"]))
    if edit == "replace":
        here[last] = draw(values)
    elif edit == "remove":
        del here[last]
    elif isinstance(here, dict):
        other = draw(
            st.sampled_from(["epochs", "model", "sweep", "note", "seed", "completions", "Prüfung", "a.b"])
        )
        here[other] = here.pop(last) if edit == "rename" else draw(values)
    return tree


@pytest.mark.parametrize("tree", TREES, ids=["study", "quickstart"])
def test_what_is_mutated_is_right(tmp_path: Path, tree: Any) -> None:
    compile_text(tmp_path, json.dumps(tree))
    assert CHECKER.is_valid(tree)


@given(mutated())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_what_the_schema_refuses_the_compiler_refuses(tmp_path: Path, tree: Any) -> None:
    text = json.dumps(tree).replace("Infinity", ".inf").replace("NaN", ".nan")
    read, problems = parse(text, "spec.yaml")
    if read is None or problems or CHECKER.is_valid(read.plain()):
        return
    with pytest.raises(SpecError):
        compile_text(tmp_path, text)


# ---------------------------------------------------------------- stage kinds of other packages


class Foreign(StageConfig):
    """What another package makes."""

    depth: int = result(doc="how deep", ge=1)


def test_kinds_of_other_packages_appear() -> None:
    sft = stage_kind("sft")
    assert sft is not None
    foreign = replace(sft, name="foreign", config=Foreign)
    checker = jsonschema.Draft7Validator(spec_schema([sft, foreign]))
    assert checker.is_valid(plain("experiment: x\nstages: {a: {kind: foreign, depth: 1}}"))
    assert not checker.is_valid(plain("experiment: x\nstages: {a: {kind: foreign, dept: 1}}"))
    assert not checker.is_valid(plain("experiment: x\nstages: {a: {kind: foreign, depth: 0}}"))


def test_a_kind_that_rewrites_what_it_does_not_declare_is_left_alone() -> None:
    sft = stage_kind("sft")
    assert sft is not None
    odd: StageKind = replace(sft, name="odd", config=Foreign, expand=lambda name, body: {name: body})
    checker = jsonschema.Draft7Validator(spec_schema([odd]))
    assert checker.is_valid(plain("experiment: x\nstages: {a: {kind: odd, anything: 1}}"))


# ---------------------------------------------------------------- the command


def test_the_command_writes_what_is_installed(tmp_path: Path) -> None:
    assert json.loads(alignc("schema", cwd=tmp_path)) == SCHEMA
    told = alignc("schema", "--out", "a/spec.schema.json", cwd=tmp_path)
    assert "# yaml-language-server: $schema=a/spec.schema.json" in told
    assert json.loads((tmp_path / "a" / "spec.schema.json").read_text()) == SCHEMA
    assert json.loads(alignc("schema", "--profile", cwd=tmp_path)) == profile_schema()
