"""What a judge is asked about a pair: by a template that ships, by one's own, or by AlpacaEval's words.

AlpacaEval's wordings are not part of this program: they are read from the data files of its package,
nothing of which is imported, or from a folder with the same files.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from runtime import templates
from runtime.declare import PACKAGE, AlpacaEvalWording, TemplateWording
from runtime.files import canonical, digest_text
from runtime.job import JobError
from runtime.llms.base import Message, Role
from runtime.parsers import LogprobsParser, Parser, RankingParser, RegexParser, parser_of

if TYPE_CHECKING:
    from jinja2 import Template

Shown = Literal["ab", "ba"]  # which answer comes first
ROLES = frozenset({"system", "user", "assistant"})
CONFIGS = "evaluators_configs"


@dataclass(frozen=True, slots=True)
class Pair:
    id: str
    prompt: str
    a: str
    b: str

    def shown(self, order: Shown) -> tuple[str, str]:
        """The answers as they are shown, the first one first."""
        return (self.a, self.b) if order == "ab" else (self.b, self.a)


class Frame(Protocol):
    """Puts a pair into words."""

    def messages(self, prompt: str, first: str, second: str) -> tuple[Message, ...]: ...


@dataclass(frozen=True, slots=True)
class Wording:
    """How a pair is put to a judge, and how its reply is read.

    hash: of the texts that it is made of. temperature, max_tokens: where the wording itself says them.
    """

    name: str
    hash: str
    parser: Parser
    frame: Frame
    temperature: float | None = None
    max_tokens: int | None = None

    def messages(self, pair: Pair, shown: Shown) -> tuple[Message, ...]:
        return self.frame.messages(pair.prompt, *pair.shown(shown))

    def read(self, text: str, logprobs: Mapping[str, float] | None = None) -> float | None:
        """See `runtime.parsers`."""
        return self.parser.read(text, logprobs)


# ---------------------------------------------------------------- Jinja


@dataclass(frozen=True, slots=True)
class JinjaFrame:
    """A Jinja template with `prompt`, `first`, `second` and `tag`.

    Each block but `parser` is a message; a block's name up to the first `_` is the role. A template without
    such blocks is one message of the user.
    """

    source: Template
    roles: tuple[str, ...] = field(default=())

    def messages(self, prompt: str, first: str, second: str) -> tuple[Message, ...]:
        # No answer can hold the digest of itself, so none can pretend to end before it does.
        tag = digest_text("\0".join((prompt, first, second)))[:12]
        values = {"prompt": prompt, "first": first, "second": second, "tag": tag}
        if not self.roles:
            return (Message("user", self.source.render(values).strip()),)
        return tuple(
            Message(cast(Role, block.partition("_")[0]), _render(self.source, block, values))
            for block in self.roles
        )


def _render(source: Template, block: str, values: Mapping[str, str]) -> str:
    return "".join(source.blocks[block](source.new_context(dict(values)))).strip()


@cache
def template(name: str) -> Wording:
    """A template of templates/judge/, by name. Raises JobError for one that is not there."""
    known = templates.names("judge")
    if name not in known:
        raise JobError(f"there is no judge template {name!r}; there are: {', '.join(known)}")
    path = templates.folder() / "judge" / f"{name}.j2"
    return _jinja(name, path.read_text(encoding="utf-8"), None)


def _jinja(name: str, text: str, parser: Parser | None) -> Wording:
    """A wording of a template's text. Raises JobError where it says nothing sensible."""
    from jinja2 import TemplateError

    try:
        source = templates.environment().from_string(text)
        named = _render(source, "parser", {}) if "parser" in source.blocks else ""
        roles = tuple(block for block in source.blocks if block != "parser")
        made = Wording(name, digest_text(text), _parser(name, parser, named), JinjaFrame(source, roles))
        strangers = {block.partition("_")[0] for block in roles} - ROLES
        if strangers or (named and not roles):
            raise JobError(
                f"the judge template {name!r} needs blocks named by role: system, user or assistant"
                + (f", not {', '.join(sorted(strangers))}" if strangers else "")
            )
        probe = made.frame.messages("\ue001", "\ue002", "\ue003")
    except TemplateError as error:
        raise JobError(
            f"the judge template {name!r} cannot be filled in: {error}; "
            "it is given `prompt`, `first`, `second` and `tag`"
        ) from error
    asked = "".join(message.content for message in probe)
    lacking = [n for n, mark in (("first", "\ue002"), ("second", "\ue003")) if mark not in asked]
    if lacking:
        raise JobError(f"the judge template {name!r} never shows the answer `{lacking[0]}`")
    return made


def _parser(name: str, given: Parser | None, named: str) -> Parser:
    if given is not None:
        return given
    if not named:
        raise JobError(
            f"the judge template {name!r} does not say how replies are read: "
            "give `parser` in the wording, or a block `parser` in the template"
        )
    try:
        return cast(Parser, parser_of(named))
    except ValueError as error:
        raise JobError(f"the block `parser` of the judge template {name!r}: {error}") from error


# ---------------------------------------------------------------- AlpacaEval's


@dataclass(frozen=True, slots=True)
class LiteralFrame:
    """AlpacaEval's templates: `{instruction}`, `{output_1}`, `{output_2}` within fixed messages.

    Filled in all at once and after the cut into messages, so that no answer can fill a place or open a
    message of its own; else the text is upstream's to the letter.
    """

    parts: tuple[tuple[Role, str], ...]

    def messages(self, prompt: str, first: str, second: str) -> tuple[Message, ...]:
        values = {"instruction": prompt, "output_1": first, "output_2": second}
        return tuple(
            Message(role, _PLACE.sub(lambda found: values[found[1]], text).strip())
            for role, text in self.parts
        )


_PLACE = re.compile(r"\{(instruction|output_1|output_2)\}")
_ANY_PLACE = re.compile(r"\{([^ \s]+?)\}")  # what upstream takes for a place
_CHATML = re.compile(r"<\|im_start\|>(\w+)[ \t]*\n(.*?)<\|im_end\|>\s*", re.DOTALL)
_HUMAN = re.compile(r"\s*Human:(.*)Assistant:\s*", re.DOTALL)


def _upstream_folder(declared: AlpacaEvalWording) -> Path:
    """The folder of upstream's annotators. Raises JobError where there is none."""
    folder = Path(declared.path).expanduser()
    if declared.path.startswith(PACKAGE):
        name = declared.path.removeprefix(PACKAGE)
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise JobError(
                f"the wording is in the Python package {name!r}, which is not installed: "
                f"pip install --no-deps {name.replace('_', '-')}, or name a folder with its files as `path`"
            )
        folder = Path(next(iter(found.submodule_search_locations)))
    inner = folder / CONFIGS
    if not inner.is_dir() and folder.name != CONFIGS:
        raise JobError(f"{folder} has no folder {CONFIGS}: name that of the package alpaca_eval")
    return inner if inner.is_dir() else folder


def upstream_files(folder: Path, name: str) -> list[Path]:
    """The files below a folder of the package that an annotator's wording is made of.

    Where its settings are not there or cannot be read, they alone: whoever opens them will say so.
    """
    annotators = folder / CONFIGS if (folder / CONFIGS).is_dir() else folder
    settings = annotators / name / "configs.yaml"
    try:
        return [settings, annotators / _settings(settings, name)["prompt_template"]]
    except JobError:
        return [settings]


def _settings(path: Path, name: str) -> dict[str, Any]:
    """An annotator's settings. Raises JobError where they are not there or of another shape."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise JobError(f"{path} cannot be read: {error}") from error
    settings = found.get(name) if isinstance(found, dict) else None
    if not isinstance(settings, dict) or not isinstance(settings.get("prompt_template"), str):
        raise JobError(f"{path} has no `prompt_template` of {name!r}")
    return settings


def _upstream(declared: AlpacaEvalWording) -> Wording:
    folder, name = _upstream_folder(declared), declared.name
    path = folder / name / "configs.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.glob("*/configs.yaml"))
        raise JobError(f"{folder} has no annotator {name!r}; it has {', '.join(known)}")
    settings = _settings(path, name)
    try:
        text = (folder / settings["prompt_template"]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise JobError(f"the template of {name!r} cannot be read: {error}") from error
    asked = settings.get("completions_kwargs") or {}
    if settings.get("batch_size", 1) != 1:
        raise JobError(f"the annotator {name!r} puts several pairs into one request; choose another")
    return Wording(
        name,
        digest_text(canonical([settings, text])),
        _upstream_parser(name, settings, asked),
        LiteralFrame(_parts(name, text)),
        _number(asked, "temperature") if declared.temperature is None else declared.temperature,
        declared.max_tokens or _number(asked, "max_tokens") or _number(asked, "max_tokens_to_sample"),
    )


def _number(asked: Mapping[str, Any], name: str) -> Any:
    """A setting of the request, in the type that ours has; None where it is not there, or no number."""
    value = asked.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if name == "temperature" else int(value)


def _parts(name: str, text: str) -> tuple[tuple[Role, str], ...]:
    """The messages of an upstream template, in ChatML, as one human turn, or plain."""
    places = _ANY_PLACE.findall(text)
    if sorted(places) != ["instruction", "output_1", "output_2"]:
        raise JobError(f"the template of {name!r} has the places {', '.join(places)}, and needs others")
    text = text.strip()
    if text.startswith("<|im_start|>"):
        found = list(_CHATML.finditer(text))
        if "".join(part[0] for part in found) != text or not {p[1] for p in found} <= ROLES:
            raise JobError(f"the template of {name!r} is no ChatML that can be read")
        return tuple((cast(Role, part[1]), part[2].strip()) for part in found)
    human = _HUMAN.fullmatch(text)
    return (("user", human[1].strip() if human else text),)


def _upstream_parser(name: str, settings: Mapping[str, Any], asked: Mapping[str, Any]) -> Parser:
    kind = settings.get("fn_completion_parser", "regex_parser")
    told = settings.get("completion_parser_kwargs") or {}
    try:
        if kind == "regex_parser":
            patterns = told["outputs_to_match"]
            return RegexParser(kind="regex", first=patterns[1], second=patterns[2], tie=patterns.get(1.5))
        if kind == "ranking_parser":
            return RankingParser(kind="ranking", first=told.get("model_1_name", "model_1"))
        if kind == "logprob_parser" and told.get("log_prob_index", "batch") in ("batch", 0):
            first = told["numerator_token"]
            (second,) = _others(told["denominator_tokens"], first)
            binarize = told.get("is_binarize", True)
            return LogprobsParser(
                kind="logprobs", first=first, second=second, top=asked["top_logprobs"], binarize=binarize
            )
    except (KeyError, TypeError, ValueError) as error:
        raise JobError(f"the parser of {name!r} is not as {kind} needs it: {error}") from error
    raise JobError(
        f"the annotator {name!r} has its replies read by {kind}, which is not known here; "
        "regex_parser, ranking_parser and logprob_parser of the first token are"
    )


def _others(tokens: Sequence[str], first: str) -> list[str]:
    return [token for token in tokens if token != first]


# ---------------------------------------------------------------- both


def open_wording(declared: TemplateWording | AlpacaEvalWording) -> Wording:
    """A declared wording. Raises JobError where its files are not there or say nothing sensible."""
    if isinstance(declared, AlpacaEvalWording):
        return _upstream(declared)
    path = Path(declared.path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise JobError(f"the judge template {path} cannot be read: {error}") from error
    made = _jinja(path.name, text, declared.parser)
    return Wording(made.name, made.hash, made.parser, made.frame, declared.temperature, declared.max_tokens)
