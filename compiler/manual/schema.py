"""The JSON schemas of specs and cluster profiles, from which editors complete, explain and check.

Made from the models that check specs: draft-07, as the YAML language servers of editors read it. A
schema is looser than the compiler and never stricter: what it marks, `alignc check` refuses.

python -m compiler.manual.schema docs    writes both (of alignc's own stage kinds)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from compiler.frontend.presets import KEY as PRESET
from compiler.frontend.presets import names_for, shipped
from compiler.frontend.spec import DECLARED, Budget, ClaimSpec, TableSpec
from compiler.site.profile import Profile
from runtime import templates
from runtime.known import format_names
from runtime.stage import StageKind, keep, stage_kinds
from runtime.tracking import Tracking

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
# Patterns hold in Python and JavaScript alike, whose `\w` differ: any letter beyond ASCII passes.
NAME = r"^[A-Za-z_][^\s!-,./:-@\[-^`{-~]*$"
HOLE = r"\$\{[^{}]*\}"
WHOLE = f"^{HOLE}$"
NUMBER = r"^\s*[-+]?([\d_.]+([eE][-+]?[\d_]+)?|[iI][nN][fF].*|[nN][aA][nN])\s*$"
SWITCH = r"^([01tTfFyYnN]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]|[yY][eE][sS]|[nN][oO]|[oO][nN]|[oO][fF][fF])$"
# `true`, which pydantic reads as 1; not said as such, or editors would offer it for numbers.
TRUTH: Schema = {"not": {"type": ["array", "null", "number", "object", "string"]}}
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
SIZES = ("minItems", "maxItems", "minLength", "maxLength", "pattern", "minProperties", "maxProperties")
SCALARS = ("string", "number", "integer", "boolean")
AFFECTS = {"result": "Affects the result.", "speed": "Affects the speed only.", "nothing": "Affects nothing."}
# Fields that take the name of a template, of which users may have more.
EXAMPLES: dict[str, Callable[[], list[str]]] = {
    "chat": format_names,
    "template": lambda: templates.names("judge"),
}

SECTIONS = {
    "experiment": "the name of the experiment",
    "include": "files that lie under this one, relative to it; what they define may be overridden here",
    "axes": "dimensions of the study, such as base model, teacher or seed: a list of values, or records",
    "models": "base models that the study uses and does not make",
    "sources": "data that the study uses and does not make",
    "llms": "teachers, critics and evaluators: what is asked over an API, in the job, or simulated",
    "wordings": "how pairs of answers are put to judges, and how their replies are read",
    "presets": "named values by stage kind, which a stage lays beneath its own by `preset: NAME`",
    "stages": "what the study makes; a stage exists once for every point of the axes it mentions or inherits",
    "tables": "what the study prints",
    "claims": "what the study says: statements about its tables that their numbers decide",
    "cluster": "the cluster profile that `submit` uses: a name in clusters/, or a file",
    "budget": "what a submission may cost",
    "tracking": "programs that shall show trainings as they run",
}


def spec_schema(kinds: Iterable[StageKind]) -> Schema:
    """The schema of specs with these stage kinds."""
    kinds = list(kinds)
    stages, definitions = _stages(kinds)
    sections: dict[str, Schema] = {"stages": stages}
    needs = {"stages": _needs("kind", {kind.name: list(_kind_needs(kind)) for kind in kinds})}
    members = {section: _members(type_) for section, (_, type_) in DECLARED.items()}
    plain: dict[str, type[BaseModel]] = {"tables": TableSpec, "claims": ClaimSpec}
    declared = [m for _, models in members.values() for m in models]
    named, more = _definitions([*declared, *plain.values(), Budget, Tracking])
    definitions |= more
    for section, (tag, models) in members.items():
        if tag:
            tagged = {_tag(model, tag): model for model in models}
            sections[section] = _choice(tag, {t: (named[m], _about(m)) for t, m in tagged.items()})
            needs[section] = _needs(tag, {t: [_one(f) for f in _required(m)] for t, m in tagged.items()})
        else:
            sections[section] = {"$ref": named[models[0]]}
    for section, model in plain.items():
        sections[section] = {"$ref": named[model]}
        needs[section] = {"required": _required(model)}
    properties: dict[str, Schema] = {
        "experiment": {"type": "string", "pattern": NAME},
        "include": {"type": ["array", "string"], "minItems": 1, "items": _included()},
        "axes": _section(_axis()),
        **{name: _section({"$ref": f"#/definitions/{name}"}) for name in sections},
        "presets": _section(_preset([kind.name for kind in kinds])),
        "cluster": {"type": "string"},
        "budget": {"allOf": [{"$ref": named[Budget]}]},
        "tracking": {"allOf": [{"$ref": named[Tracking]}]},
    }
    return {
        "$schema": DRAFT,
        "description": "An experiment of alignc",
        "type": "object",
        "properties": {name: {"description": text, **properties[name]} for name, text in SECTIONS.items()},
        "additionalProperties": False,
        # A file that is included, or that overrides what it includes, need not be whole.
        "if": {"required": ["experiment"], "not": {"required": ["include"]}},
        "then": {"properties": {name: {"additionalProperties": need} for name, need in needs.items()}},
        "definitions": {**sections, **definitions},
    }


def profile_schema() -> Schema:
    """The schema of cluster profiles."""
    named, definitions = _definitions([Profile])
    return {"$schema": DRAFT, "allOf": [{"$ref": named[Profile]}], "definitions": definitions}


def to_text(schema: Schema) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- sections


def _section(entry: Schema) -> Schema:
    return {"type": ["object", "null"], "propertyNames": {"pattern": NAME}, "additionalProperties": entry}


def _included() -> Schema:
    named = {"file": {"type": "string"}, "as": {"type": "string", "pattern": NAME}}
    entry = {"type": "object", "properties": named, "required": ["file"], "additionalProperties": False}
    words = "its stages, axes and tables get the name `as` and a `-` before their own"
    return {"anyOf": [{"type": "string"}, {**entry, "description": words}]}


def _axis() -> Schema:
    record = {"type": ["object", "null"], "description": "fields, read as `${axis.field}`"}
    one = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": record}
    value = {"anyOf": [{"type": list(SCALARS)}, {**one, "description": "`label: {fields}`"}]}
    return {
        "description": "a list of values, or `label: {fields}` for each value",
        "type": ["array", "object"],
        "minItems": 1,
        "items": value,
        "minProperties": 1,
        "additionalProperties": record,
    }


def _stages(kinds: Sequence[StageKind]) -> tuple[Schema, dict[str, Schema]]:
    """The schema of a stage, and the definitions that it refers to."""
    extra = {kind.name: kind.shorthand for kind in kinds if kind.shorthand}
    models = list(dict.fromkeys([*(kind.config for kind in kinds), *extra.values()]))
    named, definitions = _definitions(models, holes=True)
    if reference := definitions.get("stage.Reference"):
        definitions["stage.Reference"] = _reference(reference)
    roots = {model: definitions[name.rpartition("/")[2]] for model, name in named.items()}
    choices: dict[str, tuple[str, str]] = {}
    for kind in kinds:
        short = roots[extra[kind.name]]["properties"] if kind.name in extra else {}
        fields = {**roots[kind.config]["properties"], **short}
        here = f"#/definitions/kind.{kind.name}"
        definitions[f"kind.{kind.name}"] = {
            "description": _about(kind.config),
            "properties": {**fields, **_own(kind.name), "sweep": _sweep(fields, here)},
            "additionalProperties": _unforeseen(kind),
        }
        choices[kind.name] = (here, _about(kind.config))
    for model in models:
        definitions.pop(named[model].rpartition("/")[2])
    snippets = [_snippet(kind) for kind in kinds]
    kindless = {"if": {"type": "object", "required": ["kind"]}, "else": {"defaultSnippets": snippets}}
    return {**_choice("kind", choices), **kindless}, definitions


def _own(kind: str) -> dict[str, Schema]:
    """The keys of a stage that no config has, but for `sweep`."""
    about = "values that lie beneath those written here; changes nothing but them"
    named = {"type": ["string", "null"], "examples": names_for(kind)}
    return {"kind": {"const": kind}, PRESET: {"description": about, **named}}


def _preset(kinds: Sequence[str]) -> Schema:
    """One of the spec's own presets."""
    about = "another preset, which this one lies over"
    named = {PRESET: {"description": about, "type": "string", "examples": [*shipped()]}}
    fields = {kind: {"$ref": f"#/definitions/kind.{kind}"} for kind in kinds}
    return {"type": "object", "properties": {**named, **fields}, "additionalProperties": False}


def _reference(made: Schema) -> Schema:
    """The long form, or any text; without a description, so that editors show the field's."""
    return {"type": ["string", "object"], **_kept(made, ("properties", "additionalProperties"))}


def _unforeseen(kind: StageKind) -> bool:
    """Whether a kind rewrites keys that it does not declare."""
    return kind.expand is not keep and kind.shorthand is None


def _sweep(fields: Mapping[str, Schema], here: str) -> Schema:
    """A list of values for each field that may be swept."""
    swept = {
        key: {
            "description": f"values to try: {field['description']}",
            "type": "array",
            "minItems": 1,
            "items": {"$ref": f"{here}/properties/{key}"},
        }
        for key, field in fields.items()
        if key != "kind"
    }
    about = "values to try for some fields: each is an axis of this stage"
    return {"description": about, "type": "object", "properties": swept, "additionalProperties": False}


def _choice(tag: str, options: Mapping[str, tuple[str, str]]) -> Schema:
    """An object whose `tag` says which definition it follows: tag -> (reference, description)."""
    words = {"enum": list(options), "enumDescriptions": [about for _, about in options.values()]}
    cases = [{"if": _is(tag, value), "then": {"$ref": ref}} for value, (ref, _) in options.items()]
    return {"type": "object", "properties": {tag: {"description": f"which {tag}", **words}}, "allOf": cases}


def _snippet(kind: StageKind) -> Schema:
    """A stage with what it requires, to be filled in."""
    fields = [name for name in _required(kind.config) if name != "kind"]
    body = {name: f"${{{n}:{name}}}" for n, name in enumerate(fields, 1)}
    return {"label": kind.name, "description": _about(kind.config), "body": {"kind": kind.name, **body}}


# ---------------------------------------------------------------- what a whole spec must say


def _is(tag: str, value: str) -> Schema:
    return {"properties": {tag: {"const": value}}, "required": [tag]}


def _one(field: str) -> Schema:
    return {"required": [field]}


def _needs(tag: str, options: Mapping[str, Sequence[Schema]]) -> Schema:
    cases = [
        {"if": _is(tag, value), "then": {"allOf": [*needs]}} for value, needs in options.items() if needs
    ]
    return {"required": [tag], "allOf": cases}


def _kind_needs(kind: StageKind) -> Iterator[Schema]:
    """What a stage must give: each field by itself, by its sweep, or by the kind's shorthand."""
    short = _required(kind.shorthand) if kind.shorthand else []
    for field in _required(kind.config):
        if field != "kind" and not _unforeseen(kind):
            swept = {"required": ["sweep"], "properties": {"sweep": _one(field)}}
            given = {"anyOf": [swept, *map(_one, [*short, PRESET])]}
            yield {"if": given, "else": _one(field)}  # not an `anyOf`: editors would mark the sweep


def _required(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items() if info.is_required()]


# ---------------------------------------------------------------- pydantic's schema -> ours


def _members(type_: Any) -> tuple[str, list[type[BaseModel]]]:
    """The tag and the models of a discriminated union; a model alone has no tag."""
    if isinstance(type_, type):
        return "", [type_]
    union, info = get_args(type_)
    return info.discriminator, list(get_args(union))


def _tag(model: type[BaseModel], tag: str) -> str:
    (value,) = get_args(model.model_fields[tag].annotation)
    return str(value)


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _definitions(
    models: Sequence[type[BaseModel]], *, holes: bool = False
) -> tuple[dict[type[BaseModel], str], dict[str, Schema]]:
    """References to models, and the definitions of all that they hold. `holes`: `${axis}` may stand there."""
    prefix = "stage." if holes else ""
    template = f"#/definitions/{prefix}{{model}}"
    named, made = models_json_schema([(m, "validation") for m in models], ref_template=template)
    definitions = {prefix + name: _object(node, holes) for name, node in made["$defs"].items()}
    return {model: named[(model, "validation")]["$ref"] for model in models}, definitions


def _object(node: Schema, holes: bool) -> Schema:
    out: Schema = {"type": ["object", "string"], **_text(WHOLE)} if holes else {"type": "object"}
    if "description" in node:
        out["description"] = " ".join(node["description"].split())
    if "properties" in node:
        required = node.get("required", ())
        out["properties"] = {k: _field(k, v, k in required, holes) for k, v in node["properties"].items()}
    rest = node.get("additionalProperties", True)
    out["additionalProperties"] = _value(rest, holes) if isinstance(rest, dict) else rest
    return out


def _field(key: str, node: Schema, required: bool, holes: bool) -> Schema:
    """A field: what it is, what else there is to know (where editors show Markdown), its values."""
    about, default = node.get("description", ""), node.get("default")
    plain = default is not None and not isinstance(default, dict)
    takes = f"Takes {' or '.join(node['takes'])}." if node.get("takes") else ""
    given = "Required." if required else f"Default: {json.dumps(default)}." if plain else ""
    facts = " ".join(filter(None, (takes, given, AFFECTS.get(node.get("affects", "")))))
    text = f"{about}\n\n{facts}".strip()
    out: Schema = {"description": text, "markdownDescription": text}  # the second keeps its backticks
    if plain:
        out["default"] = default
    if key in EXAMPLES:
        out["examples"] = EXAMPLES[key]()
    return {**out, **_value(node, holes)}


def _value(node: Schema, holes: bool) -> Schema:
    """What pydantic takes for a value, also where it converts."""
    kind = node.get("type")
    if "$ref" in node:
        return {"$ref": node["$ref"]}  # beside descriptions, which draft-07 then ignores and editors show
    if "anyOf" in node or "oneOf" in node:
        return _union(node.get("anyOf") or node["oneOf"], holes)
    if "const" in node or "enum" in node:
        values: Schema = {"enum": node["enum"] if "enum" in node else [node["const"]]}
        return {"anyOf": [values, {"type": "string", "pattern": HOLE}]} if holes else values
    if kind in ("integer", "number"):
        text = _text(NUMBER, "a number", holes)
        return {"anyOf": [{"type": [kind, "string"], **_kept(node, BOUNDS), **text}, TRUTH]}
    if kind == "boolean":
        text = _text(SWITCH, "true or false", holes)
        return {"type": ["boolean", "integer", "string"], "minimum": 0, "maximum": 1, **text}
    if kind == "array":
        return _array(node, holes)
    if kind == "object":
        return _object(node, holes)
    if kind == "string" and "format" not in node:
        sizes = _kept(node, SIZES)
        said: Schema = {"type": "string", **sizes}
        return {"anyOf": [said, {"type": "string", "pattern": HOLE}]} if holes and sizes else said
    return {}


def _text(pattern: str, what: str = "", holes: bool = True) -> Schema:
    """A text that stands for something else: a number in quotes, or a value of an axis."""
    words = " or ".join(filter(None, (what, "`${axis}`" * holes)))
    whole = f"{HOLE}|{pattern}" if holes and what else pattern
    return {"pattern": whole, "patternErrorMessage": f"Expected {words}."}


def _union(options: Sequence[Schema], holes: bool) -> Schema:
    rest = [option for option in options if option.get("type") != "null"]
    if len(rest) > 1 and all(option.keys() == {"type"} and option["type"] in SCALARS for option in rest):
        schema: Schema = {"type": [*dict.fromkeys([*(option["type"] for option in rest), "boolean"])]}
    else:
        shapes = [_value(option, holes) for option in rest]
        schema = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return schema if len(rest) == len(options) else _or_null(schema)


def _or_null(schema: Schema) -> Schema:
    """Folded into the schema where it can be, for the sake of what editors show."""
    if "anyOf" in schema:
        first, *others = schema["anyOf"]
        return {**schema, "anyOf": [_or_null(first), *others]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*types, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _array(node: Schema, holes: bool) -> Schema:
    out: Schema = {"type": ["array", "string"], **_text(WHOLE)} if holes else {"type": "array"}
    if "prefixItems" in node:
        out["items"] = [_value(item, holes) for item in node["prefixItems"]]
    elif isinstance(node.get("items"), dict):
        out["items"] = _value(node["items"], holes)
    return {**out, **_kept(node, SIZES)}


def _kept(node: Schema, words: Iterable[str]) -> Schema:
    return {word: node[word] for word in words if word in node}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "spec.schema.json").write_text(to_text(spec_schema(stage_kinds().values())), encoding="utf-8")
    (folder / "profile.schema.json").write_text(to_text(profile_schema()), encoding="utf-8")
