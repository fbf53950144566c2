"""Program and facts -> what each node will cost. A pure pass: `facts` gathers what it reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any

from compiler.cost.amounts import NOTHING, Cost, Costs, Range, exactly, total
from compiler.cost.compute import (
    FORWARD,
    START_LIGHT_S,
    TRAIN,
    Machine,
    exchange_seconds,
    machine_of,
    speed_of,
)
from compiler.cost.flow import (
    ASSUMED_ANSWER,
    Facts,
    Flows,
    Lm,
    Rows,
    llm_of,
    new_tokens,
    pairs_of,
    reply_tokens,
    template_characters,
)
from compiler.cost.models import GUESSED
from compiler.cost.prices import PAID
from compiler.cost.words import short
from compiler.graph import Node
from compiler.planning.plan import processes
from compiler.program import Program
from compiler.site.profile import Profile

RETRIES = Range(1.0, 1.02, 1.1)  # requests that are asked, and may be billed, again
VERDICT = Range(3, 6, 12)  # tokens of a verdict and nothing else
LATENCY_S = Range(0.5, 2, 8)  # of one request to an API
BATCH_S = Range(300, 3600, 86_400)  # of a batch, however large: most end within an hour, say the vendors
SIMULATED_S = exactly(0.0002)  # of one request to a program
MODELS = ("Model", "RewardModel", "LLM")
ROW_S = exactly(0.00005)  # of one row that is only read and written


def estimate(program: Program, sealed: Collection[str], facts: Facts, profile: Profile) -> Costs:
    """The cost of every node whose key is not sealed, each key once."""
    pass_ = _Pass(Flows(program, facts), facts, profile)
    found: dict[int, Cost] = {}
    known: dict[Hashable, Cost] = {}
    done = set(sealed)
    for index, (node, key) in enumerate(zip(program.graph.nodes, program.keys, strict=True)):
        if key not in done:
            done.add(key)
            shape = pass_.flows.shapes[index]
            if shape not in known:
                known[shape] = pass_.cost(node)
            found[index] = known[shape]
    return Costs(found)


@dataclass(frozen=True, slots=True)
class _Pass:
    flows: Flows
    facts: Facts
    profile: Profile

    def cost(self, node: Node) -> Cost:
        machine = machine_of(node.resources, processes(node), self.profile)
        kinds: dict[str, Callable[[Node, Machine], Cost]] = {
            "prepare": self._prepare,
            "demonstrate": self._demonstrate,
            "label": self._label,
            "evaluate": self._evaluate,
            "select": self._select,
            "sample": self._sample,
            "sft": self._sft,
            "dpo": self._dpo,
            "reward": self._reward,
            "score": self._graded,
            "rank": self._graded,
            "reference": self._reference,
        }
        return kinds.get(node.kind.name, self._other)(node, machine)

    # ------------------------------------------------------------ training

    def _sft(self, node: Node, machine: Machine) -> Cost:
        return self._trained(node, machine, texts=1, reference=False)

    def _dpo(self, node: Node, machine: Machine) -> Cost:
        given = "reference" in node.inputs or getattr(node.config, "loss", None) == "simpo"
        own = node.follows is None and not given
        return self._trained(node, machine, texts=2, reference=own)

    def _reward(self, node: Node, machine: Machine) -> Cost:
        return self._trained(node, machine, texts=2, reference=False)

    def _reference(self, node: Node, machine: Machine) -> Cost:
        return self._trained(node, machine, texts=2, reference=True, train=False)

    def _trained(
        self, node: Node, machine: Machine, *, texts: int, reference: bool, train: bool = True
    ) -> Cost:
        """`reference`: with the log-probabilities of the frozen model, once; `train`: and its epochs."""
        model, data = self.flows.model(node), self.flows.rows(node, "data")
        if model is None or data is None:
            return _unknown(node, model, data)
        config: Any = node.config
        once = data.count * _sequence(node, model, data) * texts
        epochs = self.flows.own_epochs(node)
        tokens = once * (epochs if train else 1)
        flops = once * ((TRAIN * epochs * train + FORWARD * reference) * model.size.active)
        kind = node.kind.name if train else "dpo"
        speed = speed_of(kind, model.size, machine, config.precision, self.facts.history)
        seconds = flops / (speed.rate * machine.units)
        if train and not speed.observed:
            steps = data.count * (epochs / config.batch_size)
            seconds = seconds.at_least(exchange_seconds(model.size, machine, steps, config.precision))
        seconds = seconds + speed.overhead_s
        parts = ["6 FLOPs"] * train + ["2 FLOPs of the reference"] * reference
        words = f"{' and '.join(parts)} a token and parameter"
        basis = (data.basis, *_told(model), f"{words}, {speed.basis}")
        return _timed(machine, seconds, rows=data.count, tokens_read=tokens, flops=flops, basis=basis)

    def _graded(self, node: Node, machine: Machine) -> Cost:
        """One pass of a reward model over all that it reads, at the speed of its training."""
        given = [b for name, bindings in node.inputs.items() if name != "model" for b in bindings]
        data = self.flows.ranked(node) if node.kind.name == "rank" else self.flows.rows(node, "data")
        model = self.flows.model(node)
        if model is None or data is None:
            return _unknown(node, model, data)
        texts = 2 if given[0].port.type == "Preferences" else len(given)
        tokens = data.count * _sequence(node, model, data) * texts
        flops = tokens * (FORWARD * model.size.active)
        speed = speed_of("reward", model.size, machine, "bf16", self.facts.history)
        seconds = flops / (speed.rate * (1 if machine.gpu else machine.units)) + speed.overhead_s
        basis = (data.basis, *_told(model), f"2 FLOPs a token and parameter, {speed.basis}")
        return _timed(machine, seconds, rows=data.count, tokens_read=tokens, flops=flops, basis=basis)

    # ------------------------------------------------------------ sampling

    def _sample(self, node: Node, machine: Machine) -> Cost:
        model, prompts = self.flows.model(node), self.flows.rows(node, "prompts")
        if model is None or prompts is None:
            return _unknown(node, model, prompts)
        config: Any = node.config
        asked = ((prompts.prompt + exactly(_chat(node))) / model.ratio).at_most(config.max_prompt_length)
        new, how = new_tokens(node, model, self.facts.history)
        read, written = prompts.count * asked, prompts.count * new
        basis = (prompts.basis, *_told(model), how)
        return self._generated(node, machine, model, prompts, read, written, basis)

    def _generated(
        self,
        node: Node,
        machine: Machine,
        model: Lm,
        rows: Rows,
        read: Range,
        written: Range,
        basis: tuple[str, ...],
    ) -> Cost:
        """Reading costs little beside writing: it is one pass, at the speed of training."""
        size, history = model.size, self.facts.history
        reading = speed_of("sft", size, machine, "bf16", history)
        writing = speed_of("sample", size, machine, "bf16", history)
        units = 1 if machine.gpu else machine.units  # one process on one device
        seconds = (read * (FORWARD * size.active)) / (reading.rate * units)
        seconds = seconds + (written * (FORWARD * size.active)) / (writing.rate * units) + writing.overhead_s
        flops = (read + written) * (FORWARD * size.active)
        told = (*basis, f"2 FLOPs a token and parameter, {writing.basis}")
        return _timed(
            machine,
            seconds,
            rows=rows.count,
            tokens_read=read,
            tokens_written=written,
            flops=flops,
            basis=told,
        )

    # ------------------------------------------------------------ asking

    def _demonstrate(self, node: Node, machine: Machine) -> Cost:
        prompts = self.flows.rows(node, "prompts")
        if prompts is None:
            return _unknown(node, True, None)
        most = int(node.config.max_tokens)  # type: ignore[attr-defined]
        written = self.flows.demonstrated(node)
        tokens, how = reply_tokens(node, "teacher", self.facts.history, most)
        if tokens is None:
            assert isinstance(written, Rows)
            tokens = ((written.answer or ASSUMED_ANSWER) / GUESSED).at_most(most)
            assumed = f"answers of {short(tokens.likely)} tokens, assumed"
            how = "answers like the data's" if prompts.answer else assumed
        return self._asked(node, "teacher", machine, prompts, prompts.count, prompts.prompt, tokens, (how,))

    def _label(self, node: Node, machine: Machine) -> Cost:
        return self._judged(node, "critic", machine, self.flows.rows(node, "a"), self.flows.rows(node, "b"))

    def _evaluate(self, node: Node, machine: Machine) -> Cost:
        done = self.flows.rows(node, "completions")
        if "evaluator" not in node.inputs:
            return self._other(node, machine)
        versus = self.flows.rows(node, "reference" if "reference" in node.inputs else "prompts")
        return self._judged(node, "evaluator", machine, versus, done)

    def _judged(self, node: Node, llm: str, machine: Machine, a: Rows | None, b: Rows | None) -> Cost:
        pairs = pairs_of(a, b)
        if pairs is None or pairs.answer is None:
            return _unknown(node, True, None)
        config: Any = node.config
        template, reasons, most = _wording(node)
        times = (2 if config.order == "both" else 1) * config.repeats
        tokens, how = reply_tokens(node, llm, self.facts.history, most)
        if tokens is None:
            tokens = Range(most / 4, most / 2, most) if reasons else VERDICT.at_most(most)
            how = "replies as the template asks for"
        basis = (how, *(("both orders",) if config.order == "both" else ()))
        basis = (*basis, *((f"{config.repeats} times each",) if config.repeats > 1 else ()))
        asked = pairs.prompt + pairs.answer + exactly(template)
        return self._asked(node, llm, machine, pairs, pairs.count * times, asked, tokens, basis)

    def _asked(
        self,
        node: Node,
        llm: str,
        machine: Machine,
        rows: Rows,
        requests: Range,
        characters: Range,
        replies: Range,
        basis: tuple[str, ...],
    ) -> Cost:
        """Requests to a declared llm: dollars of an API, compute of a model run in the job itself."""
        (binding,) = node.inputs[llm]
        assert binding.declaration is not None
        declared = binding.declaration.value
        characters = characters + exactly(len(getattr(declared, "system", None) or ""))
        local = self.facts.models.get(binding.name)
        ratio = local.ratio if local else GUESSED
        read, written = requests * (characters / ratio), requests * replies
        if declared.provider == "local":
            if local is None:
                return _unknown(node, None, rows)
            told = (rows.basis, *basis, *_told(local))
            return self._generated(node, machine, local, rows, read, written, told)
        basis = (rows.basis, *basis, f"{GUESSED.likely:g} characters a token, a guess")
        usd, unpriced = NOTHING, ""
        if declared.provider in PAID:
            read, written = read * RETRIES, written * RETRIES
            price = self.facts.prices.get(binding.name)
            if price is None:
                unpriced = f"{binding.name} ({declared.model})"
            else:
                usd = (read * price.input + written * price.output) * (declared.price_share / 1e6)
                half = ("half of it, in batches",) if declared.mode == "batch" else ()
                basis = (*basis, f"price: {price.basis}", *half, f"{RETRIES.likely - 1:.0%} asked again")
        seconds, known = self._waiting(node, binding, declared, requests, read + written)
        return _timed(
            machine,
            seconds,
            rows=rows.count,
            tokens_read=read,
            tokens_written=written,
            usd=usd,
            basis=(*basis, *known),
            unpriced=unpriced,
        )

    def _waiting(
        self, node: Node, binding: Any, declared: Any, requests: Range, tokens: Range
    ) -> tuple[Range, tuple[str, ...]]:
        """Wall time of a job that asks."""
        if getattr(declared, "mode", "live") == "batch":
            return BATCH_S, (f"a batch takes {BATCH_S.likely / 3600:g} h, assumed; a day at most",)
        known = self.facts.history.request_seconds(node.kind.name, llm_of(binding))
        if known is not None:
            return requests * known[0] + START_LIGHT_S, (f"time: {known[1]}",)
        limits = getattr(declared, "limits", None)
        if limits is None:
            return requests * SIMULATED_S + START_LIGHT_S, ()
        seconds = requests * LATENCY_S / limits.concurrency
        for each, rate in ((requests, limits.requests_per_minute), (tokens, limits.tokens_per_minute)):
            if rate:
                seconds = seconds.at_least(each * (60 / rate))
        return seconds + START_LIGHT_S, (f"{LATENCY_S.likely:g} s a reply, assumed",)

    # ------------------------------------------------------------ anything else

    def _prepare(self, node: Node, machine: Machine) -> Cost:
        parts = self.flows.prepared(node).values()
        rows = [p for p in parts if isinstance(p, Rows)]
        if not rows:
            return _unknown(node, True, None)
        count = total(p.count for p in rows)
        return _timed(machine, count * ROW_S + START_LIGHT_S, rows=count, basis=(rows[0].basis,))

    def _select(self, node: Node, machine: Machine) -> Cost:
        return _timed(machine, START_LIGHT_S)

    def _other(self, node: Node, machine: Machine) -> Cost:
        """A kind of which nothing is known but how long it took before."""
        known = self.facts.history.wall_seconds(node.kind.name)
        if known is not None:
            return _timed(machine, known[0], basis=(known[1],))
        if not machine.gpu and not node.kind.preload:
            return _timed(machine, START_LIGHT_S)
        return Cost(unknown=f"the stage kind `{node.kind.name}` has no history yet")


# ---------------------------------------------------------------- pieces


def _timed(machine: Machine, seconds: Range, **more: Any) -> Cost:
    hours, asked = seconds / 3600, machine.resources
    return Cost(
        seconds=seconds,
        gpu_hours=hours * asked.gpus,
        cpu_hours=hours * (asked.cpus * machine.processes),
        **more,
    )


def _unknown(node: Node, model: object, data: object) -> Cost:
    """No estimate, because of the first thing that is missing."""
    if model is None:
        names = sorted(p.base or p.name or n for n, p in node.ports().items() if p.type in MODELS)
        return Cost(unknown=f"the size of the model `{names[0] if names else '?'}` is not known here")
    sources = sorted({pool.source for port in node.ports().values() for pool in port.pools}) or [
        port.name for port in node.ports().values() if port.type == "Source"
    ]
    names = [f"`{s}`" for s in sources]
    return Cost(unknown=f"the rows of {' and '.join(names) or node.stage} are not known here")


def _wording(node: Node) -> tuple[int, bool, int]:
    """Characters of a judge's template, whether it has the judge give reasons, and a reply's most tokens."""
    config: Any = node.config
    declared: Any = node.ports()["wording"].declared if "wording" in node.inputs else None
    if declared is None:
        return *template_characters(f"judge/{config.template}.j2"), config.judge_max_tokens
    from runtime.wordings import Pair, open_wording

    found = open_wording(declared)
    own = sum(len(message.content) for message in found.messages(Pair("", "", "", ""), "ab"))
    return own, getattr(found.parser, "kind", "") == "last_line", found.max_tokens or config.judge_max_tokens


def _sequence(node: Node, model: Lm, data: Rows) -> Range:
    """Tokens of a prompt with one completion, as training reads them."""
    characters = data.prompt + exactly(_chat(node)) + (data.answer or ASSUMED_ANSWER)
    each = characters / model.ratio + exactly(1)  # the end-of-sequence token
    return each.at_most(node.config.max_length)  # type: ignore[attr-defined]


def _chat(node: Node) -> int:
    """Characters of the chat format around a prompt."""
    chat = getattr(node.config, "chat", None) or node.inputs["model"][0].port.chat
    return template_characters(f"chat/{chat}.j2")[0] if chat else 0


def _told(model: Lm) -> tuple[str, str]:
    return f"{short(model.size.active)} parameters: {model.size.basis}", model.ratio_basis
