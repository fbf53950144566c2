"""Names in a spec that stand for templates: chat formats and judges' templates, refused where unknown."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from runtime.templates import names

TOKENIZER = "tokenizer"  # the format that the model's own tokenizer brings along
UNKNOWN_NAME = "unknown_name"  # pydantic's type of the error; its context holds `name` and `known`


@cache
def format_names() -> list[str]:
    """Names of all chat formats."""
    return sorted([*names("chat"), TOKENIZER])


@cache
def judge_names() -> list[str]:
    """Names of all judges' templates."""
    return names("judge")


def one_of(what: str, known: Callable[[], list[str]]) -> AfterValidator:
    def check(name: str | None) -> str | None:
        if name is None or name in known():
            return name
        context = {"what": what, "name": name, "known": known()}
        raise PydanticCustomError(UNKNOWN_NAME, "there is no {what} `{name}`", context)

    return AfterValidator(check)


ChatFormat = Annotated[str | None, one_of("chat format", format_names)]
JudgeTemplate = Annotated[str, one_of("judge's template", judge_names)]
