"""Config fields that say what they affect: the result, the speed, or nothing.

Only fields that affect the result enter a recipe key (see `identity`), so every field of every
config must say so; a test holds that. Fields that name an input also say which artifact they take.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

Affects = Literal["result", "speed", "nothing"]

_REQUIRED: Any = ...


class Frozen(BaseModel):
    """Base of everything read from a spec: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reference(Frozen):
    """A typed reference to an output of a stage or to a declared name.

    Written `stage`, `stage.output`, or `{stage: stage.output, at: {axis: value}}` to read the stage
    along another axis.
    """

    stage: str = Field(description="a stage or a declared name, as `name` or `name.output`")
    at: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="axis of the stage -> the value to read it at"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"stage": value} if isinstance(value, str) else value

    @property
    def name(self) -> str:
        return self.stage.partition(".")[0]

    @property
    def output(self) -> str:
        """The output or metric asked for; empty for the stage's only one."""
        return self.stage.partition(".")[2]


def _field(affects: Affects, default: Any, doc: str, extra: dict[str, Any], limits: dict[str, Any]) -> Any:
    return Field(default, description=doc, json_schema_extra={"affects": affects, **extra}, **limits)


def result(default: Any = _REQUIRED, *, doc: str, later: bool = False, **limits: Any) -> Any:
    """A field that changes what comes out: part of the recipe key.

    `later`: the kind had keys before it had this field, so at its default it is left out of them.
    """
    return _field("result", default, doc, {"later": True} if later else {}, limits)


def speed(default: Any = _REQUIRED, *, doc: str, **limits: Any) -> Any:
    """A field that changes how fast the same result comes: never part of the key."""
    return _field("speed", default, doc, {}, limits)


def nothing(default: Any = _REQUIRED, *, doc: str, **limits: Any) -> Any:
    """A field that changes neither result nor speed (names, notes, checks): never part of the key."""
    return _field("nothing", default, doc, {}, limits)


def takes(
    *types: str,
    doc: str,
    default: Any = _REQUIRED,
    many: bool = False,
    alias: str | None = None,
    affects: Affects = "result",
) -> Any:
    """An input of type `Reference`: its artifact's key, not its name, enters the recipe key.

    `many`: the stage reduces, so the field receives every candidate along the reduced axes. `affects`:
    an input that only saves work, since it follows from the others, is no part of the key.
    """
    extra = {"takes": list(types), "many": many}
    return _field(affects, default, doc, extra, {"alias": alias} if alias else {})


def _extra(info: FieldInfo) -> dict[str, Any]:
    extra = info.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def affects(info: FieldInfo) -> Affects | None:
    """What a field says it affects; None where it says nothing (a defect)."""
    return _extra(info).get("affects")


def taken(info: FieldInfo) -> tuple[str, ...]:
    """The artifact types an input field takes; empty for a field that is no input."""
    return tuple(_extra(info).get("takes", ()))


def takes_many(info: FieldInfo) -> bool:
    return bool(_extra(info).get("many", False))


@cache
def identifying(model: type[BaseModel]) -> tuple[str, ...]:
    """The input fields whose artifacts are part of a recipe."""
    fields = model.model_fields.items()
    return tuple(name for name, info in fields if taken(info) and affects(info) == "result")


@cache
def _result_fields(model: type[BaseModel]) -> tuple[str, ...]:
    fields = model.model_fields.items()
    return tuple(name for name, info in fields if affects(info) == "result" and not taken(info))


def _unsaid(info: FieldInfo, value: Any) -> bool:
    """Whether a field came later and has the value that was meant before there was one."""
    return bool(_extra(info).get("later", False)) and value == info.default


def identity(value: Any) -> Any:
    """The part of a config that affects the result, as plain JSON data; inputs are left out."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, BaseModel):
        return {
            name: identity(getattr(value, name))
            for name in _result_fields(type(value))
            if not _unsaid(type(value).model_fields[name], getattr(value, name))
        }
    if isinstance(value, dict):
        return {str(k): identity(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(v) for v in value]
    return value
