"""Rows and texts through the graph: what each node reads and writes, before any of it exists.

Texts are measured in characters, which are counted where data are at hand; how many tokens they make
depends on who reads them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from compiler.cost.amounts import Range, exactly
from compiler.cost.counts import Count
from compiler.cost.history import History, llm_name
from compiler.cost.models import GUESSED, Size
from compiler.cost.prices import Price
from compiler.graph import Binding, Node
from compiler.planning.plan import processes
from compiler.program import Program
from runtime import templates
from runtime.stages.prepare import shares

# Characters, where nobody counted: a first turn of ShareGPT, an answer on AlpacaEval.
ASSUMED_PROMPT, ASSUMED_ANSWER = Range(100, 600, 2000), Range(200, 1200, 2500)
NOT_WHOLE = Range(0.9, 1.0, 1.1)  # rows of data of which only the beginning was counted
DECIDED = Range(0.5, 0.9, 1.0)  # pairs on which a critic has a preference
# Config fields that change rows, tokens or speed.
SHAPE = (
    "limit",
    "max_prompt_chars",
    "only_full",
    "epochs",
    "batch_size",
    "max_length",
    "precision",
    "chat",
    "max_new_tokens",
    "max_prompt_length",
    "max_tokens",
    "template",
    "order",
    "repeats",
    "judge_max_tokens",
)
TAG = 12  # characters of the tag in a judge's template


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows, characters of a row's prompt and of one completion (None where it has none)."""

    count: Range
    prompt: Range
    answer: Range | None
    basis: str


@dataclass(frozen=True, slots=True)
class Lm:
    """A model: its size, characters of its tokens, and of the answers that it last learnt to give."""

    size: Size
    ratio: Range
    ratio_basis: str
    answer: Range | None = None


Flow = Rows | Lm | None  # None: nobody can tell
SourceKey = tuple[str, int | None, bool]  # declared name, and the filters of `prepare`


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that an estimate reads from outside the program."""

    sources: Mapping[SourceKey, Count | None] = field(default_factory=dict[SourceKey, "Count | None"])
    sealed: Mapping[tuple[int, str], Count] = field(default_factory=dict[tuple[int, str], Count])
    models: Mapping[str, Lm | None] = field(default_factory=dict[str, "Lm | None"])
    prices: Mapping[str, Price | None] = field(default_factory=dict[str, "Price | None"])
    history: History = field(default_factory=History)


def source_key(binding: Binding, config: Any) -> SourceKey:
    return binding.name, config.max_prompt_chars, config.only_full


class Flows:
    """What is behind every binding; nodes are added in graph order."""

    def __init__(self, program: Program, facts: Facts) -> None:
        self.facts = facts
        self._nodes = program.graph.nodes
        self.shapes: list[Hashable] = []  # of each node; equal ones read, write and cost the same
        self._made: list[Mapping[str, Flow] | Flow] = []
        self._counted = {id(count): _counted(count) for count in facts.sealed.values()}
        known: dict[Hashable, Mapping[str, Flow] | Flow] = {}
        for node in program.graph.nodes:
            # The splits of `prepare` are no hashable value, and there are few of it.
            shape = self._shape(node) if node.kind.name != "prepare" else node.id
            if shape not in known:
                known[shape] = self._of_node(node)
            self.shapes.append(shape)
            self._made.append(known[shape])

    def own_epochs(self, node: Node) -> int:
        """Epochs that a training's own job does: those of the run that it goes on from are done."""
        before = 0 if node.follows is None else self._epochs(self._nodes[node.follows])
        return self._epochs(node) - before

    def _epochs(self, node: Node) -> int:
        return int(vars(node.config).get("epochs", 0))

    def read(self, binding: Binding) -> Flow:
        """What a binding reads: counted where its artifact is sealed, else inferred."""
        if binding.node is None:
            return self.facts.models.get(binding.name)
        counted = self.facts.sealed.get((binding.node, binding.path))
        if counted is not None:
            return self._counted[id(counted)]
        made = self._made[binding.node]
        return made.get(binding.path) if isinstance(made, Mapping) else made

    def rows(self, node: Node, name: str) -> Rows | None:
        found = self._input(node, name)
        return found if isinstance(found, Rows) else None

    def model(self, node: Node, name: str = "model") -> Lm | None:
        found = self._input(node, name)
        return found if isinstance(found, Lm) else None

    def _input(self, node: Node, name: str) -> Flow:
        bindings = node.inputs.get(name)
        return self.read(bindings[0]) if bindings else None

    def _of_node(self, node: Node) -> Mapping[str, Flow] | Flow:
        kind = node.kind.name
        if kind == "prepare":
            return self.prepared(node)
        if kind == "select":
            return self._input(node, "candidates")
        make = {
            "demonstrate": self.demonstrated,
            "sample": self._sampled,
            "label": self._labelled,
            "sft": self._trained,
            "dpo": self._trained,
            "reward": self._trained,
            "rank": self.ranked,
        }.get(kind)
        return make(node) if make else None

    def _shape(self, node: Node) -> Hashable:
        """All that rows, tokens and hours of a node depend on. Flows live as long as this object does."""
        values, asked = vars(node.config), node.resources
        inputs = [
            (name, len(bindings), b.name if b.node is None else id(self.read(b)))
            for name, bindings in node.inputs.items()
            for b in bindings[:1]
        ]
        fields = [values[name] for name in _shaping(type(node.config))]
        machine = asked.gpus, asked.cpus, asked.partition, processes(node)
        return node.kind.name, machine, self.own_epochs(node), _chat_of_model(node), *inputs, *fields

    # ------------------------------------------------------------ kinds

    def prepared(self, node: Node) -> Mapping[str, Flow]:
        config: Any = node.config
        (binding,) = node.inputs["source"]
        if binding.node is None:
            counted = self.facts.sources.get(source_key(binding, config))
            whole = _counted(counted) if counted is not None else _unknown(config, binding)
        else:
            found = self.read(binding)
            whole = found if isinstance(found, Rows) else None
        if whole is None:
            return {}
        if config.limit is not None:
            whole = replace(whole, count=whole.count.at_most(config.limit))
        return {f"{name or 'data'}.jsonl": part for name, part in _cut(whole, config.split).items()}

    def demonstrated(self, node: Node) -> Flow:
        prompts = self.rows(node, "prompts")
        if prompts is None:
            return None
        tokens, _ = reply_tokens(node, "teacher", self.facts.history, node.config.max_tokens)  # type: ignore[attr-defined]
        answer = tokens * GUESSED if tokens is not None else _likely_answer(node, prompts)
        return replace(prompts, answer=answer)

    def _sampled(self, node: Node) -> Flow:
        prompts, model = self.rows(node, "prompts"), self.model(node)
        if prompts is None or model is None:
            return None
        tokens, _ = new_tokens(node, model, self.facts.history)
        return replace(prompts, answer=tokens * model.ratio)

    def _labelled(self, node: Node) -> Flow:
        pairs = pairs_of(self.rows(node, "a"), self.rows(node, "b"))
        if pairs is None:
            return None
        (critic,) = node.inputs["critic"]
        share = self.facts.history.decided(llm_of(critic)) or DECIDED
        both = pairs.answer / 2 if pairs.answer is not None else None
        return replace(pairs, count=pairs.count * share, answer=both)

    def ranked(self, node: Node) -> Rows | None:
        """Prompts with one completion each, of as many as there are."""
        if "a" not in node.inputs:
            return self.rows(node, "candidates")
        pairs = pairs_of(self.rows(node, "a"), self.rows(node, "b"))
        return replace(pairs, answer=pairs.answer / 2) if pairs and pairs.answer else None

    def _trained(self, node: Node) -> Flow:
        model, data = self.model(node), self.rows(node, "data")
        return replace(model, answer=data.answer if data else model.answer) if model else None


# ---------------------------------------------------------------- pieces


@cache
def _shaping(config: type[Any]) -> tuple[str, ...]:
    return tuple(name for name in SHAPE if name in config.model_fields)


def _chat_of_model(node: Node) -> str | None:
    bindings = node.inputs.get("model")
    return bindings[0].port.chat if bindings else None


def _counted(count: Count) -> Rows:
    rows = exactly(count.rows) if count.whole else NOT_WHOLE * count.rows
    answer = exactly(count.completion) if count.completion is not None else None
    return Rows(rows, exactly(count.prompt), answer, f"rows: {count.basis}")


def _unknown(config: Any, source: Binding) -> Rows | None:
    """Rows that a `prepare` asks for by number, or a source states, where it cannot be counted here."""
    numbers = [n for n in (config.split or {}).values() if isinstance(n, int)]
    stated = getattr(source.declaration and source.declaration.value, "rows", None)
    if stated is not None:
        rows = exactly(stated)
        return Rows(rows.at_most(config.limit or stated), ASSUMED_PROMPT, ASSUMED_ANSWER, "rows: stated")
    if config.limit is None and (not numbers or len(numbers) < len(config.split or {})):
        return None
    rows = exactly(config.limit or sum(numbers))
    return Rows(rows, ASSUMED_PROMPT, ASSUMED_ANSWER, "rows: as the spec asks for")


def _cut(whole: Rows, split: Mapping[str, str | int] | None) -> dict[str, Rows]:
    """The splits of `prepare`, each like the whole but for its number of rows; none where it would refuse."""
    try:
        n = whole.count
        low, likely, high = (shares(split or {"": "rest"}, round(x)) for x in (n.low, n.likely, n.high))
    except ValueError:
        return {}
    return {name: replace(whole, count=Range(low[name], likely[name], high[name])) for name in likely}


def _likely_answer(node: Node, prompts: Rows) -> Range:
    """Characters of a teacher's answer: like those the data have, else as assumed."""
    most = GUESSED * node.config.max_tokens  # type: ignore[attr-defined]
    return (prompts.answer * Range(0.5, 1, 2) if prompts.answer else ASSUMED_ANSWER).at_most(most)


def new_tokens(node: Node, model: Lm, history: History) -> tuple[Range, str]:
    """Tokens that a sampled row will have."""
    most = int(node.config.max_new_tokens)  # type: ignore[attr-defined]
    known = history.new_tokens(most, model.size.active)
    if known is not None:
        return known[0].at_most(most), f"answers: {known[1]}"
    if model.answer is not None:
        likely = (model.answer / model.ratio + exactly(1)).at_most(most)
        return Range(likely.low / 2, likely.likely, most), "answers as long as those it was trained on"
    return Range(most / 8, most / 2, most), f"answers up to `max_new_tokens: {most}`"


def reply_tokens(node: Node, llm: str, history: History, most: int) -> tuple[Range | None, str]:
    """Tokens of a reply, where the history has any."""
    (binding,) = node.inputs[llm]
    known = history.output_tokens(node.kind.name, llm_of(binding))
    return (known[0].at_most(most), f"replies: {known[1]}") if known else (None, "")


def llm_of(binding: Binding) -> str:
    assert binding.declaration is not None
    return llm_name(binding.declaration.value.model_dump(mode="json"))


def pairs_of(a: Rows | None, b: Rows | None) -> Rows | None:
    """Two completions of the same prompts, joined; `answer` is the characters of both."""
    if a is None or b is None:
        return None
    fewer = a if a.count.likely <= b.count.likely else b
    answer = (a.answer or ASSUMED_ANSWER) + (b.answer or ASSUMED_ANSWER)
    return Rows(a.count.at_most(b.count), fewer.prompt, answer, fewer.basis)


@cache
def template_characters(name: str) -> tuple[int, bool]:
    """Characters of a template's own text, and whether it has a judge give reasons before the verdict."""
    path = templates.folder() / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    reasons = "last_line" in text
    text = re.sub(r"\{%\s*block parser.*?endblock.*?%\}|\{#.*?#\}|\{%.*?%\}", "", text, flags=re.S)
    tags = len(re.findall(r"\{\{\s*tag\s*\}\}", text))
    return len(re.sub(r"\{\{.*?\}\}", "", text).strip()) + tags * TAG, reasons
