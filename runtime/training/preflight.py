"""What a training will do with its data and memory, found out beforehand and without a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.chat import Renderer
from runtime.job import Job, JobError
from runtime.models import Origin, head_size, open_renderer
from runtime.training import data
from runtime.training.data import Counts, Cut, Example, Lengths, Tokens, read_examples
from runtime.training.needs import lacking
from runtime.training_config import LOGITS_BYTES, TrainingConfig

WARN_SHARE = 0.05  # rows dropped, or without their EOS
BARS = 10  # of a histogram, at most
STATE_BYTES = {"fp32": 4.0, "bf16": 2.0, "8bit": 1 + 4 / 256}  # of a state of one weight; a scale for 256
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # of a weight: 4 bits, 8 for 64 of them, 32 for 256 of those


# ---------------------------------------------------------------- what is found


@dataclass(frozen=True, slots=True)
class Fate:
    """What truncation did to a row. tokens: its longest sequence, EOS included, before."""

    tokens: int
    dropped: bool
    prompt_cut: bool
    completions_cut: int


@dataclass(frozen=True, slots=True)
class Text:
    """A sequence as text: `prompt` has no loss, `supervised` has; special tokens are spelled out."""

    prompt: str
    supervised: str
    tokens: int
    supervised_tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A row as it is trained on; `why` it is shown."""

    id: str
    why: str
    texts: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """Rows of `low` to `high` tokens."""

    low: int
    high: int
    rows: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Lengths of rows in tokens: the longest sequence of each."""

    median: int
    percentile_95: int
    longest: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of the first epoch, which others differ from by their order only.

    padded_real: share of computed tokens that are no filler, sequences padded side by side; end to end
    it is 1. prompts_saved: share of tokens that need no computing end to end, since both completions of
    a pair follow one prompt. largest_tokens, largest_supervised: of one forward pass of one process, as
    the config asks for it.
    """

    steps_per_epoch: int
    steps: int
    supervised_tokens: int
    padded_real: float
    prompts_saved: float
    largest_tokens: int
    largest_supervised: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a causal language model. queries, keys: numbers of a token's queries and keys in a layer.

    linear: parameters of linear layers other than the output, which can be kept in 4 bits.
    """

    parameters: int
    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    vocabulary: int
    linear: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each GPU. The first four are exact but for odd shares; activations are an estimate."""

    master: float
    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.master + self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to know of one training. Where rows cannot be trained on, `refused` says why.

    lengths: None where there is no row; batches, memory: None where nothing is trained on.
    """

    counts: Counts
    samples: tuple[Sample, ...] = ()
    lengths: Spread | None = None
    batches: Batches | None = None
    memory: Memory | None = None
    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------- the whole


@dataclass
class Watch(Cut):
    """Truncation that remembers what it did to each row."""

    fates: list[Fate] = field(default_factory=list[Fate])

    def apply(self, prompt: list[int], completions: Sequence[list[int]]) -> tuple[Tokens, ...] | None:
        prompts, cut = self.counts.prompts_cut, self.counts.completions_cut
        found = super().apply(prompt, completions)
        tokens = len(prompt) + max(map(len, completions))
        counts = self.counts
        fate = Fate(tokens, found is None, counts.prompts_cut > prompts, counts.completions_cut - cut)
        self.fates.append(fate)
        return found


def look(job: Job, samples: int = 3) -> Report:
    """Look at a job's data with the code of its training; its scratch folder takes a model made for it.

    Raises JobError where the data or the model cannot be read.
    """
    from runtime.training.launch import origin_of

    config: TrainingConfig = job.config
    fields, path = config.completions, job.input("data").path
    origin = origin_of(job)
    renderer = open_renderer(origin, getattr(config, "chat", None))
    watch = Watch(Lengths(config.max_length, config.max_prompt_length, config.truncation))
    refused: list[str] = list(filter(None, [lacking(config)]))
    examples: list[Example] = []
    try:
        examples = read_examples(path, renderer, fields, watch)
    except JobError as error:
        if watch.counts.kept or not watch.counts.rows:
            raise
        refused.append(str(error))
    counts, lengths = watch.counts, spread([fate.tokens for fate in watch.fates])
    if not examples:
        return Report(counts, lengths=lengths, refused=tuple(refused))
    if job.kind.name == "dpo" and len({example.id for example in examples}) < len(examples):
        refused.append(f"{path}: ids repeat, so reference log-probabilities cannot be told apart")
    model_config = _model_config(origin)
    refused += _no_room(model_config, renderer, examples)
    kept = [fate for fate in watch.fates if not fate.dropped]
    found, shown = batches(examples, config), [(examples[i], why) for i, why in chosen(kept, samples)]
    if job.kind.name == "reward":  # its loss is on the last token, and reads no logits
        found = replace(found, largest_supervised=0)
        shown = [(_with_loss_at_the_end(example), why) for example, why in shown]
    return Report(
        counts,
        tuple(_sample(example, why, renderer) for example, why in shown),
        lengths,
        found,
        memory(shape_of(model_config), config, found),
        tuple(refused),
        tuple(warnings(counts, len(fields))),
    )


def _model_config(origin: Origin) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(origin.folder)


def _no_room(model_config: Any, renderer: Renderer, examples: Sequence[Example]) -> list[str]:
    from runtime.training.launch import require_room

    try:
        require_room(model_config, renderer, examples)
    except JobError as error:
        return [str(error)]
    return []


def warnings(counts: Counts, completions: int) -> Iterator[str]:
    """Where more is lost than one would want; `completions` of a row."""
    if counts.dropped > WARN_SHARE * counts.rows:
        share = 100 * counts.dropped / counts.rows
        yield f"{share:.1f} % of the rows are dropped as too long: raise `max_length`"
    whole = counts.kept * completions
    if counts.completions_cut > WARN_SHARE * whole:
        share = 100 * counts.completions_cut / whole
        yield (
            f"{share:.1f} % of the completions lose their end-of-sequence token, so "
            "the model learns not to stop: raise `max_length`, or set `truncation: drop`"
        )


# ---------------------------------------------------------------- rows


def chosen(fates: Sequence[Fate], count: int) -> list[tuple[int, str]]:
    """Which of the kept rows to show, and why: the first, one that was cut, the longest, then the next."""
    ways: dict[int, str] = {}
    cut = max(range(len(fates)), key=lambda i: (fates[i].completions_cut, fates[i].prompt_cut))
    if fates[cut].completions_cut:
        ways[cut] = "cut, its EOS is lost"
    elif fates[cut].prompt_cut:
        ways[cut] = "its prompt is cut"
    longest = max(range(len(fates)), key=lambda i: fates[i].tokens)
    for index, why in ((0, "the first"), (longest, "the longest")):
        ways.setdefault(index, why)
    for index in range(len(fates)):
        if len(ways) >= count:
            break
        ways.setdefault(index, "")
    return list(ways.items())[:count]


def _sample(example: Example, why: str, renderer: Renderer) -> Sample:
    return Sample(example.id, why, tuple(_text(s, renderer.tokenizer) for s in example.sequences))


def _with_loss_at_the_end(example: Example) -> Example:
    return Example(example.id, tuple(Tokens(s.ids, len(s.ids) - 1) for s in example.sequences))


def _text(s: Tokens, tokenizer: Any) -> Text:
    def decode(ids: Any) -> str:
        text = tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    return Text(decode(s.ids[: s.prompt]), decode(s.ids[s.prompt :]), len(s.ids), s.supervised)


def spread(lengths: Sequence[int]) -> Spread:
    """Percentiles and a histogram of at least one length; bars of a round width."""
    ranked = sorted(lengths)
    widths = (step * 10**power for power in range(9) for step in (1, 2, 5))
    width = next(w for w in widths if -(-ranked[-1] // w) - (ranked[0] - 1) // w <= BARS)
    first, last = (ranked[0] - 1) // width, -(-ranked[-1] // width)
    counted = [0] * (last - first)
    for length in ranked:
        counted[(length - 1) // width - first] += 1
    bars = (Bar((first + i) * width + 1, (first + i + 1) * width, rows) for i, rows in enumerate(counted))
    return Spread(_ranked(ranked, 0.5), _ranked(ranked, 0.95), ranked[-1], tuple(bars))


def _ranked(ranked: Sequence[int], share: float) -> int:
    """The smallest value that this share of all does not exceed."""
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]


# ---------------------------------------------------------------- batches


def batches(examples: Sequence[Example], config: TrainingConfig) -> Batches:
    """The first epoch as `runtime.training.loop` cuts it, by lengths alone."""
    units, size = data.units(examples, config), config.batch_size
    ordered, steps = data.order(config.seed, 0, len(units)), data.steps_per_epoch(len(units), size)
    computed = real = flat = 0
    largest = (0, 0)
    for number in range(steps):
        batch = data.batch(units, ordered, number, size)
        for part in _parts(examples, batch, config, padded=True):
            computed += padded_tokens(part)
            real += sum(len(s.ids) - 1 for example in part for s in example.sequences)
        for part in _parts(examples, batch, config, padded=config.padding):
            supervised = sum(example.supervised for example in part)
            tokens = padded_tokens(part) if config.padding else sum(e.computed for e in part)
            largest = max(largest[0], tokens), max(largest[1], supervised)
        flat += sum(examples[item].computed for item in batch)
    return Batches(
        steps,
        steps * config.epochs,
        sum(example.supervised for example in examples),
        real / computed,
        1 - flat / real,
        *largest,
    )


def _parts(
    examples: Sequence[Example], batch: Sequence[int], config: TrainingConfig, *, padded: bool
) -> Iterator[list[Example]]:
    """The micro-batches of all processes, those without a share left out."""
    ranks = data.parts(batch, examples, config, config.parallel.processes, padded=padded)
    for rank in ranks:
        yield from ([examples[item] for item in items] for items in rank if items)


def padded_tokens(part: Sequence[Example]) -> int:
    """Tokens of a micro-batch with filler: what `lay_out` makes of it where it pads."""
    lengths = [len(s.ids) - 1 for example in part for s in example.sequences]
    return len(lengths) * max(lengths)


# ---------------------------------------------------------------- memory


def shape_of(model_config: Any) -> Shape:
    """The sizes that a model's config tells; its parameters are counted on a model without any data."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(model_config)
    told = model_config.get_text_config()
    heads, each = told.num_attention_heads, head_size(told)
    return Shape(
        sum(p.numel() for p in lm.parameters()),
        told.num_hidden_layers,
        told.hidden_size,
        getattr(told, "intermediate_size", None) or 4 * told.hidden_size,
        heads * each,
        (getattr(told, "num_key_value_heads", None) or heads) * each,
        told.vocab_size,
        sum(
            m.weight.numel()
            for m in lm.modules()
            if type(m) is torch.nn.Linear and m is not lm.get_output_embeddings()
        ),
    )


def memory(shape: Shape, config: TrainingConfig, found: Batches) -> Memory:
    """Bytes on each GPU at the largest micro-batch.

    Master weights and gradients are fp32, moments what `optimizer_states` says. In bf16 a copy of the
    weights joins them: autocast's for one pass, or DeepSpeed's; ZeRO shares out the moments (1), the
    gradients too (2), the weights too (3); FSDP2 shares out everything and gathers a layer at a time. With
    `lora` only the adapters have gradients and moments, which are left out as small; `quantize` packs the
    linear layers. What libraries keep in reserve is not in it.
    """
    packed = shape.linear if config.lora and config.lora.quantize else 0
    number = shape.parameters - packed
    stage, processes = config.parallel.zero_stage, config.parallel.processes
    half = config.precision == "bf16"
    width = 2 if half else 4
    moments = STATE_BYTES[config.optimizer_states] * (2 if config.optimizer == "adamw" else 1)
    fully = config.parallel.sharding is not None
    share = processes if stage or fully else 1
    gradient = width if stage else 4
    copy = width if stage or (half and not fully) else 0
    trained = 0 if config.lora else number
    layer = activation_bytes(shape, width)
    each = shape.layers * layer
    if config.activation_checkpointing:  # what goes into each layer, and one layer that is computed again
        each = shape.layers * width * shape.hidden + layer
    return Memory(
        master=4 * number / share + NF4_BYTES * packed,
        weights=copy * number / (processes if stage == 3 else 1),
        gradients=gradient * trained / (processes if stage >= 2 or fully else 1),
        optimizer=moments * trained / share,
        activations=each * found.largest_tokens,
        logits=logits_bytes(shape.vocabulary, found.largest_supervised, width),
    )


def activation_bytes(shape: Shape, width: int) -> int:
    """What a gated layer keeps of a token for the way back; `width`: bytes of a number computed in.

    Two norms (in fp32, and what they give), queries, keys and values before and after their turn, what
    attention gives, and four of the inner size.
    """
    norms = 2 * (2 * 4 + width) * shape.hidden
    attention = width * (3 * shape.queries + 4 * shape.keys)
    return norms + attention + width * 4 * shape.inner


def logits_bytes(vocabulary: int, supervised: int, width: int) -> int:
    """Logits, in fp32 too, and their softmax; in chunks where they are many."""
    rows = min(supervised, max(1, LOGITS_BYTES // (4 * vocabulary)))
    return rows * vocabulary * (width + 2 * 4)
