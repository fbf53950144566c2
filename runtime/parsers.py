"""How a judge's reply is read: 1.0 the first answer shown is better, 2.0 the second, 1.5 a tie.

Each parser takes a reply for a verdict only where its form leaves no doubt; anything else is None, which
is never a preference. Replies may quote what the answers say, so no parser looks for a verdict inside
other words, but for `regex`, which reads what it is told to.
"""

from __future__ import annotations

import ast
import json
import math
import re
import string
import warnings
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from runtime.fields import Frozen, result

FIRST, SECOND, TIE = 1.0, 2.0, 1.5

Logprobs = Mapping[str, float]  # beginning of a reply -> its log-probability, in nats

_AROUND = string.whitespace + "\"'`*"


class _Parser(Frozen):
    def read(self, text: str, logprobs: Logprobs | None = None) -> float | None:
        """The verdict of a reply; None where it has none."""
        raise NotImplementedError

    def forms(self) -> tuple[str, str]:
        """A reply for the first answer and one for the second, as a program would give them."""
        raise NotImplementedError


class WordsParser(_Parser):
    """A reply that is one of these texts and nothing else: as a whole, or in its last line.

    Letter case, quotes, emphasis around it and a full stop do not count; case does where it alone tells the
    texts apart.
    """

    kind: Literal["whole_reply", "last_line"] = result(doc="what of the reply is read")
    first: str = result("Output (a)", doc="the first answer is better", min_length=1)
    second: str = result("Output (b)", doc="the second answer is better", min_length=1)
    tie: str | None = result("Tie", doc="neither is better; none: there are no ties")

    @model_validator(mode="after")
    def _different(self) -> WordsParser:
        said = [_bare(word) for word in (self.first, self.second, self.tie) if word is not None]
        if len(set(said)) < len(said):
            raise ValueError("`first`, `second` and `tie` must differ")
        return self

    def read(self, text: str, logprobs: Logprobs | None = None) -> float | None:
        if self.kind == "last_line":
            lines = text.strip().splitlines()
            text = lines[-1] if lines else ""
        words = {self.first: FIRST, self.second: SECOND}
        if self.tie is not None:
            words[self.tie] = TIE
        folded = {_bare(word).casefold(): verdict for word, verdict in words.items()}
        if len(folded) == len(words):
            return folded.get(_bare(text).casefold())
        return {_bare(word): verdict for word, verdict in words.items()}.get(_bare(text))

    def forms(self) -> tuple[str, str]:
        return self.first, self.second


def _bare(text: str) -> str:
    return text.lstrip(_AROUND).rstrip(f"{_AROUND}.")


class RankingParser(_Parser):
    """A list of two records {model, rank}, as JSON or Python, and nothing else; equal ranks are a tie."""

    kind: Literal["ranking"] = result(doc="what of the reply is read")
    first: str = result("model_1", doc="name of the first answer")
    second: str = result("model_2", doc="name of the second answer")

    def read(self, text: str, logprobs: Logprobs | None = None) -> float | None:
        rows = _literal(text)
        if not isinstance(rows, list) or len(rows) != 2:
            return None
        ranks: dict[Any, Any] = {}
        for row in rows:
            if not isinstance(row, dict) or row.keys() != {"model", "rank"} or type(row["rank"]) is not int:
                return None
            if not isinstance(row["model"], str) or row["rank"] not in (1, 2):
                return None
            ranks[row["model"]] = row["rank"]
        if ranks.keys() != {self.first, self.second}:
            return None
        first, second = ranks[self.first], ranks[self.second]
        return TIE if first == second else FIRST if first < second else SECOND

    def forms(self) -> tuple[str, str]:
        return _ranked(self.first, self.second), _ranked(self.second, self.first)


def _ranked(*models: str) -> str:
    return json.dumps([{"model": model, "rank": rank} for rank, model in enumerate(models, 1)])


class JsonParser(_Parser):
    """A JSON object, bare or in one code fence, and nothing else: one of its fields holds the verdict."""

    kind: Literal["json"] = result(doc="what of the reply is read")
    field: str = result("verdict", doc="the field that holds it")
    first: bool | int | str = result("a", doc="its value where the first answer is better")
    second: bool | int | str = result("b", doc="its value where the second answer is better")
    tie: bool | int | str | None = result("tie", doc="its value where neither is; none: there are no ties")

    def read(self, text: str, logprobs: Logprobs | None = None) -> float | None:
        fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", text, re.DOTALL)
        found = _json(fenced[1] if fenced else text)
        if not isinstance(found, dict) or self.field not in found:
            return None
        said = found[self.field]
        for value, verdict in ((self.first, FIRST), (self.second, SECOND), (self.tie, TIE)):
            if value is not None and type(value) is type(said) and value == said:
                return verdict
        return None

    def forms(self) -> tuple[str, str]:
        return json.dumps({self.field: self.first}), json.dumps({self.field: self.second})


class RegexParser(_Parser):
    """A reply in which exactly one place matches any of these patterns (Python's `re`).

    After a match the search goes on in the rest as if it began there, as AlpacaEval's does.
    """

    kind: Literal["regex"] = result(doc="what of the reply is read")
    first: str = result(doc="matches where the first answer is better")
    second: str = result(doc="matches where the second answer is better")
    tie: str | None = result(None, doc="matches where neither is")

    @model_validator(mode="after")
    def _sound(self) -> RegexParser:
        for pattern in filter(None, (self.first, self.second, self.tie)):
            try:
                empty = re.compile(pattern).match("") is not None
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
            if empty:
                raise ValueError(f"{pattern!r} matches everywhere, since it matches nothing at all")
        return self

    def read(self, text: str, logprobs: Logprobs | None = None) -> float | None:
        found = list(self._matches(text))
        return found[0] if len(found) == 1 else None

    def _matches(self, text: str) -> Iterator[float]:
        patterns = [(self.first, FIRST), (self.second, SECOND), *([(self.tie, TIE)] if self.tie else [])]
        while True:
            places = [(m, verdict) for p, verdict in patterns if (m := re.search(p, text))]
            if not places:
                return
            match, verdict = min(places, key=lambda place: place[0].start())
            yield verdict
            if not match.end():
                return
            text = text[match.end() :]

    def forms(self) -> tuple[str, str]:
        return "Output (a)", "Output (b)"  # a pattern cannot be turned round


class ScoresParser(_Parser):
    """A first line of two numbers, the scores of the two answers; the higher wins, equal ones are a tie."""

    kind: Literal["scores"] = result(doc="what of the reply is read")

    def read(self, text: str, logprobs: Logprobs | None = None) -> float | None:
        words = text.strip().partition("\n")[0].replace(",", " ").split()
        if len(words) != 2 or not all(re.fullmatch(r"[+-]?\d{1,9}(\.\d{1,9})?", word) for word in words):
            return None
        first, second = map(float, words)
        return TIE if first == second else FIRST if first > second else SECOND

    def forms(self) -> tuple[str, str]:
        return "2 1", "1 2"


class LogprobsParser(_Parser):
    """The judge's probability of beginning its reply with either of two tokens, between them by degree.

    The verdict is 2 - p(first) / (p(first) + p(second)); a token that is not among the likeliest counts 0,
    and where neither is there is no verdict. One token is asked for, at temperature 1. A local model tells
    the probability of both, however unlikely. Anthropic's models tell none.
    """

    kind: Literal["logprobs"] = result(doc="what of the reply is read")
    first: str = result("m", doc="token for the first answer", min_length=1)
    second: str = result("M", doc="token for the second answer", min_length=1)
    top: int = result(5, doc="how many of the likeliest tokens are asked for", ge=2, le=20)
    binarize: bool = result(False, doc="the likelier token is the verdict; equal ones are a tie")

    def read(self, text: str, logprobs: Logprobs | None = None) -> float | None:
        found = logprobs or {}
        first, second = (found.get(token, -math.inf) for token in (self.first, self.second))
        if max(first, second) == -math.inf:
            return None
        if self.binarize:
            return TIE if first == second else FIRST if first > second else SECOND
        gap = second - first
        return 2 - (1 / (1 + math.exp(gap)) if gap < 700 else 0.0)

    def forms(self) -> tuple[str, str]:
        return self.first, self.second


Parser = Annotated[
    WordsParser | RankingParser | JsonParser | RegexParser | ScoresParser | LogprobsParser,
    Field(discriminator="kind"),
]


def parser_of(text: str) -> Any:
    """The parser that a template's block names: a kind, or a YAML mapping. Raises ValueError."""
    import yaml

    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    return TypeAdapter[Any](Parser).validate_python({"kind": said} if isinstance(said, str) else said)


# ---------------------------------------------------------------- literals


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _literal(text: str) -> Any:
    """A JSON or Python literal in which no key stands twice; None where it is neither."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a judge's odd backslashes
            tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                keys = [ast.literal_eval(key) if key else None for key in node.keys]
                if len(set(keys)) < len(keys):
                    return None
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
