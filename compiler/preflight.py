"""What `alignc preflight` is asked, found out and said: as text and as JSON."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from compiler.cost.amounts import Range, total
from compiler.cost.words import duration, short
from compiler.errors import UsageError
from compiler.graph import Node
from compiler.output.describe import describe_jobs
from compiler.planning.place import model_sizes, rule_for
from compiler.planning.plan import processes
from compiler.program import Program
from compiler.site.profile import Profile
from runtime.store import Store
from runtime.training_config import TrainingConfig

if TYPE_CHECKING:
    from runtime.training.preflight import Memory, Report, Sample

READS = ("model", "data")  # inputs that have to be there
# Config fields that change no figure: nodes that differ in these alone are looked at once.
SAME = {
    *("learning_rate", "schedule", "horizon", "warmup_steps", "betas", "weight_decay", "max_grad_norm"),
    *("epochs", "checkpoint_every", "segments", "seed", "note", "resources", "reference"),
    *("reduction", "loss", "beta", "label_smoothing", "centering"),
}
MOST_CHARACTERS = 600  # of a prompt, or of what follows it, that are shown
BAR = 32
PARTS = {
    "master": "fp32 weights",
    "weights": "a copy to compute with",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations about",
    "logits": "logits",
}


@dataclass(frozen=True, slots=True)
class Looked:
    """One training and as many others like it. gpu_gb: memory of a GPU, None where there is none or
    nobody knows; seconds: of the whole run, None where there is no estimate."""

    node: Node
    alike: int
    report: Report
    gpu_gb: float | None
    seconds: Range | None
    gpu_hours: Range | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A training that cannot be looked at before other nodes are made, and as many like it."""

    node: Node
    alike: int
    needs: tuple[str, ...]


# ---------------------------------------------------------------- finding out


def trainings(program: Program, chosen: Collection[int] | None) -> list[int]:
    """The nodes to look at. Raises UsageError where there is none."""
    nodes = program.graph.nodes
    asked = sorted(range(len(nodes)) if chosen is None else chosen)
    found = [i for i in asked if issubclass(nodes[i].kind.config, TrainingConfig)]
    if not found:
        which = "none of the nodes named" if chosen is not None else "no node of the spec"
        raise UsageError(f"{which} is a training")
    return found


def gather(
    program: Program, store: Store, indices: Sequence[int], profile: Profile, samples: int
) -> tuple[list[Looked], list[Waiting]]:
    """Look at trainings, those that differ in no figure once. The program has its places on the profile."""
    groups: dict[str, list[int]] = {}
    descriptions = list(describe_jobs(program))
    for index in indices:
        told = descriptions[index]
        config = {name: value for name, value in told["config"].items() if name not in SAME}
        inputs = [told["inputs"][name] for name in READS]
        groups.setdefault(repr((told["stage"], config, inputs, told["resources"])), []).append(index)
    looked: list[Looked] = []
    waiting: list[Waiting] = []
    costs = _Costs(program, store, indices, profile)
    sizes = model_sizes(program)
    for group in groups.values():
        # The checkpoints of a run are nodes of their own: the last of the first run speaks for all.
        index = max(group, key=lambda i: (program.graph.nodes[i].config.epochs, -i))  # type: ignore[attr-defined]
        node = program.graph.nodes[index]
        needs = _needs(program, store, node)
        if needs:
            waiting.append(Waiting(node, len(group) - 1, needs))
            continue
        gpu_gb = _gpu_memory(node, sizes.get(index), profile)
        report = _held(_look(store, descriptions[index], samples), node, gpu_gb)
        looked.append(Looked(node, len(group) - 1, report, gpu_gb, *costs.of(index)))
    return looked, waiting


def _needs(program: Program, store: Store, node: Node) -> tuple[str, ...]:
    """Inputs that are not in the store yet."""
    read = [b.node for name in READS for b in node.inputs[name] if b.node is not None]
    nodes, keys = program.graph.nodes, program.keys
    return tuple(
        nodes[i].id for i in dict.fromkeys(read) if store.locate(nodes[i].kind.name, keys[i]) is None
    )


def _look(store: Store, description: dict[str, Any], samples: int) -> Report:
    from runtime.job import Blocked, JobError, open_job
    from runtime.realise import realise
    from runtime.training.data import Counts
    from runtime.training.preflight import Report, look

    inputs = {name: description["inputs"][name] for name in READS}
    with tempfile.TemporaryDirectory(prefix="alignc-preflight-") as scratch:
        try:
            real = realise(store, {**description, "inputs": inputs, "recipe": {"inputs": {}}})
            return look(open_job(store, {**real, "scratch": scratch}), samples)
        except (Blocked, JobError) as error:
            return Report(Counts(), refused=(str(error),))


def _gpu_memory(node: Node, size: float | None, profile: Profile) -> float | None:
    """GiB of a GPU that the node gets: its partition's, or what the profile's rule asks for at least."""
    if not node.resources.gpus:
        return None
    place = profile.partitions.get(node.resources.partition or profile.partition or "")
    return (place.gpu_memory_gb if place else None) or rule_for(node.kind.name, size, profile).gpu_memory_gb


def _held(report: Report, node: Node, gpu_gb: float | None) -> Report:
    """The report, its memory held against what the node gets."""
    if report.memory is None:
        return report
    needed = report.memory.total / 2**30
    hint = "set `micro_batch` or `micro_tokens` lower, or `parallel` to share out the model"
    if gpu_gb is not None and needed > gpu_gb:
        text = f"it needs {needed:.1f} GiB of GPU memory, and the GPU has {gpu_gb:g}: {hint}"
        return replace(report, refused=(*report.refused, text))
    needed, most = needed * processes(node), node.resources.memory_gb
    if not node.resources.gpus and needed > most:
        text = f"it needs {needed:.1f} GiB of memory, and asks for {most:g}: raise its `resources.memory_gb`"
        return replace(report, warnings=(*report.warnings, text))
    return report


class _Costs:
    """The estimates of `alignc plan --cost`, as if none of these trainings were made."""

    def __init__(self, program: Program, store: Store, indices: Sequence[int], profile: Profile) -> None:
        from compiler.cost.estimate import estimate
        from compiler.cost.facts import gather as gather_facts
        from compiler.cost.prices import read_tables

        self.program = program
        runs = {i for index in indices for i in self._run(index)}
        sealed = store.sealed() - {program.keys[i] for i in runs}
        facts = gather_facts(program, sealed, store, read_tables(profile.prices))
        costs = estimate(program, sealed, facts, profile)
        self.by_key = {program.keys[i]: cost for i, cost in costs.nodes.items()}

    def _run(self, index: int) -> Iterator[int]:
        """A node and those that it goes on from."""
        at: int | None = index
        while at is not None:
            yield at
            at = self.program.graph.nodes[at].follows

    def of(self, index: int) -> tuple[Range | None, Range | None]:
        """Seconds and GPU-hours of the whole run."""
        costs = [self.by_key[self.program.keys[i]] for i in self._run(index)]
        if any(cost.unknown for cost in costs):
            return None, None
        return total(c.seconds for c in costs), total(c.gpu_hours for c in costs)


# ---------------------------------------------------------------- saying it


def waiting_words(one: Waiting, spec: str) -> str:
    names = " and ".join(one.needs)
    select = shlex.quote(" ".join(f"+{name}" for name in one.needs))
    command = f"alignc run {shlex.quote(spec)} --select {select}"
    return f"{_name(one.node, one.alike)}: needs {names}, not made yet: `{command}` first"


def to_json(looked: Sequence[Looked], waiting: Sequence[Waiting]) -> dict[str, Any]:
    """All figures; texts of samples whole."""
    told: list[dict[str, Any]] = []
    for one in looked:
        report = asdict(one.report)
        if one.report.memory is not None:
            report["memory"]["total"] = one.report.memory.total
        time = {
            "seconds": one.seconds and asdict(one.seconds),
            "gpu_hours": one.gpu_hours and asdict(one.gpu_hours),
        }
        told.append({"node": one.node.id, "alike": one.alike, "gpu_memory_gb": one.gpu_gb, **time, **report})
    left = [{"node": one.node.id, "alike": one.alike, "needs": list(one.needs)} for one in waiting]
    return {"schema": "alignc.preflight/1", "trainings": told, "waiting": left}


def to_text(one: Looked, *, colour: bool) -> str:
    """A block of lines; in colour what the loss is on is green, else it stands between « and »."""
    report = one.report
    lines = [_name(one.node, one.alike)]
    if report.counts.rows:
        lines += [_line(*pair) for pair in _figures(one)]
    if report.samples:
        marks = "green" if colour else "between « and »"
        lines.append(_line("samples", f"what the loss is on is {marks}"))
        for sample in report.samples:
            lines += _sample(sample, colour=colour)
    lines += [f"  warning: {text}" for text in report.warnings]
    lines += [f"  REFUSED: {text}" for text in report.refused]
    return "\n".join(lines)


def _name(node: Node, alike: int) -> str:
    return node.id + (f" and {alike} like it" if alike else "")


def _line(name: str, text: str) -> str:
    return f"  {name:<9}{text}"


def _figures(one: Looked) -> Iterator[tuple[str, str]]:
    report, config = one.report, one.node.config
    counts, lengths, batches = report.counts, report.lengths, report.batches
    lost = f" ({counts.prompts_cut} prompts; {counts.completions_cut} completions, which lost their EOS)"
    rows = f"{counts.rows}: {counts.kept} kept, {counts.dropped} dropped, {counts.cut} cut"
    yield "rows", rows + (lost if counts.cut else "")
    if lengths is not None:
        limit = f"`max_length` is {config.max_length}"  # type: ignore[attr-defined]
        told = f"median {lengths.median}, 95 % up to {lengths.percentile_95}, longest {lengths.longest}"
        yield "lengths", f"in tokens, before any cut: {told}; {limit}"
        most = max(bar.rows for bar in lengths.bars)
        for bar in lengths.bars:
            drawn = "#" * -(-bar.rows * BAR // most)
            yield "", f"{f'{bar.low}-{bar.high}':>11} {drawn:<{BAR}} {bar.rows}"
    if batches is None:
        return
    size = f"`batch_size` is {config.batch_size}"  # type: ignore[attr-defined]
    yield "steps", f"{batches.steps_per_epoch} an epoch, {batches.steps} in all; {size}"
    padded, asked = f"{100 * batches.padded_real:.1f} % of the tokens", config.padding  # type: ignore[attr-defined]
    yield (
        "filler",
        f"padded as asked, {padded} are real; none without `padding`"
        if asked
        else f"none, end to end; padded, {padded} would be real",
    )
    if one.node.kind.name != "sft":
        saved = "would be saved without `padding`" if asked else "saved"
        yield (
            "prompts",
            f"{100 * batches.prompts_saved:.1f} % of the tokens {saved}: a pair has one prompt",
        )
    if report.memory is not None:
        yield "memory", _memory_words(one, report.memory)
    yield "time", _time_words(one)


def _memory_words(one: Looked, memory: Memory) -> str:
    what = "GPU" if one.node.resources.gpus else "process"
    of = f" of {one.gpu_gb:g} GiB" if one.gpu_gb else ""
    parts = ", ".join(f"{PARTS[name]} {_bytes(value)}" for name, value in asdict(memory).items() if value)
    return f"{_bytes(memory.total)}{of} on each {what}: {parts}"


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"


def _time_words(one: Looked) -> str:
    if one.seconds is None or one.gpu_hours is None:
        return "no estimate: `alignc plan --cost` says why"
    seconds, hours = one.seconds, one.gpu_hours
    told = f"about {duration(seconds.likely)} ({duration(seconds.low)} to {duration(seconds.high)})"
    return told + (f", {short(hours.likely)} GPU-hours" if hours.likely else "")


def _sample(sample: Sample, *, colour: bool) -> Iterator[str]:
    for number, text in enumerate(sample.texts):
        names = ("", "") if len(sample.texts) == 1 else ("chosen, ", "rejected, ")
        why = f", {sample.why}" if sample.why else ""
        count = f"{text.tokens} tokens, {text.supervised_tokens} of them with loss"
        yield f"    --- {sample.id}{why}: {names[number]}{count}"
        prompt, supervised = _shown(text.prompt), _shown(text.supervised)
        shown = (
            click.style(prompt, dim=True) + click.style(supervised, fg="green")
            if colour
            else f"{prompt}«{supervised}»"
        )
        yield from (f"    {line}".rstrip() for line in shown.split("\n"))


def _shown(text: str) -> str:
    """A text that is short enough, and does nothing to a terminal."""
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        text = f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
