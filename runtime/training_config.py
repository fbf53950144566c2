"""Config fields that every training stage shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import model_validator

from runtime.fields import Frozen, nothing, result, speed
from runtime.stage import Leg, StageConfig

Reduction = Literal["example_sum", "token_mean", "example_mean"]
Truncation = Literal["drop", "keep_start", "keep_end"]
Precision = Literal["fp32", "bf16"]
States = Literal["fp32", "bf16", "8bit"]


# Logits (fp32) are kept for the way back where they take no more than this; else they are computed twice.
LOGITS_BYTES = 256 * 1024**2
MOST_CHECKPOINTS = 1000  # of one run; each is a node of the graph


class Parallel(Frozen):
    """How one run is spread over processes. The optimisation is the same; only rounding differs."""

    processes: int = speed(1, doc="processes, one for each GPU", ge=1)
    deepspeed: Literal["zero1", "zero2", "zero3"] | None = speed(
        None, doc="DeepSpeed stage; none: plain or DDP, but for `sharding`"
    )
    sharding: Literal["fsdp2"] | None = speed(
        None, doc="spread weights, gradients and optimizer states by torch itself, instead of by DeepSpeed"
    )

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's ZeRO stage; 0 without DeepSpeed."""
        return int(self.deepspeed.removeprefix("zero")) if self.deepspeed else 0

    @model_validator(mode="after")
    def _one_way(self) -> Parallel:
        if self.sharding and self.deepspeed:
            raise ValueError("`sharding` and `deepspeed` are two ways to the same end: leave one of them out")
        if self.sharding and self.processes == 1:
            raise ValueError("`sharding` needs `processes: 2` or more: leave it out for one process")
        return self


class Lora(Frozen):
    """Adapters of low rank beside linear layers: only they are trained, the weights stay as they are."""

    rank: int = result(16, doc="rank of an adapter", ge=1)
    alpha: float = result(32.0, doc="an adapter's output is scaled by alpha / rank", gt=0)
    dropout: float = result(0.0, doc="dropout before an adapter (`sft` only)", ge=0, lt=1)
    targets: tuple[str, ...] | None = result(
        None, doc="names of linear layers, as `q_proj`; none: all but the output", min_length=1
    )
    quantize: Literal["nf4"] | None = result(
        None,
        later=True,
        doc="keep linear layers, but for the output, in 4 bits (QLoRA, by bitsandbytes); none: in fp32",
    )


class TrainingConfig(StageConfig):
    """Optimisation, batches, truncation and checkpoints."""

    completions: ClassVar[tuple[str, ...]]  # fields of a row of `data`, each a sequence behind its prompt

    epochs: int = result(doc="passes over the data", ge=1)
    checkpoint_every: int | None = nothing(
        None,
        doc="keep a checkpoint after every so many epochs: adds the axis `epoch`; none: the last one only",
        ge=1,
    )
    segments: int = speed(
        1,
        doc="jobs that a run is cut into on Slurm, at checkpoints: what reads an early checkpoint need not "
        "wait for the last, and each job has the whole time limit",
        ge=1,
    )
    learning_rate: float = result(doc="peak learning rate", gt=0)
    schedule: Literal["constant", "linear", "cosine"] = result("constant", doc="learning rate over the run")
    horizon: int | None = result(
        None,
        doc="epochs that a falling schedule is laid out for; none: `epochs`. Runs of one horizon share their "
        "first epochs",
        ge=1,
    )
    warmup_steps: int = result(0, doc="steps of linear warm-up", ge=0)
    optimizer: Literal["adamw", "rmsprop"] = result("adamw", doc="optimizer")
    betas: tuple[float, float] = result((0.9, 0.999), doc="adamw: decay rates of the moments")
    weight_decay: float = result(0.0, doc="adamw: decoupled weight decay", ge=0)
    optimizer_states: States = result(
        "fp32",
        later=True,
        doc="what the optimizer keeps of each weight (adamw two numbers, rmsprop one); `bf16` is rounded at "
        "random, so that small changes are not lost; `8bit` is that of bitsandbytes",
    )
    max_grad_norm: float = result(1.0, doc="gradients are clipped to this norm", gt=0)
    batch_size: int = result(8, doc="examples (or pairs) in one optimizer step, over all processes", ge=1)
    max_length: int = result(512, doc="longest prompt plus completion in tokens", ge=2)
    max_prompt_length: int = result(256, doc="longest prompt in tokens, where the whole is too long", ge=1)
    truncation: Truncation = result(
        "drop",
        doc="rows that are too long: `drop` them, or cut the prompt to `max_prompt_length` keeping its start "
        "or end, then the completion (which then has no end-of-sequence token); always counted",
    )
    precision: Precision = result("fp32", doc="compute precision; master weights stay fp32")
    lora: Lora | None = result(None, doc="train adapters only (LoRA); none: all weights")
    seed: int = result(0, doc="seed of data order, dropout, adapters and a reward head")
    packing: Literal["bins"] | None = result(
        None,
        doc="`bins`: `batch_size` counts bins of up to `max_length` tokens (pairs: twice that) instead of "
        "examples; sequences in a bin still do not see each other",
    )
    micro_batch: int | None = speed(
        None,
        doc="examples in one forward pass of a process; none: as many as its share of the batch has",
        ge=1,
    )
    micro_tokens: int | None = speed(
        None, doc="tokens in one forward pass of a process, but for a single example that is longer", ge=1
    )
    padding: bool = speed(
        False,
        doc="pad sequences side by side instead of laying them end to end: slower, for models that could not "
        "keep them apart",
    )
    activation_checkpointing: bool = speed(
        False, doc="compute each layer again on the way back instead of keeping what it computed: less memory"
    )
    compile: bool = speed(False, doc="compile the layers with torch.compile: a slow start, then faster steps")
    parallel: Parallel = speed(Parallel(), doc="processes and sharding")

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.lora is not None and self.parallel != Parallel(processes=self.parallel.processes):
            raise ValueError("`lora` trains in one process or with DDP: leave sharding out of `parallel`")
        if self.compile and (self.parallel.deepspeed == "zero3" or self.parallel.sharding):
            raise ValueError("`compile` does not go with `zero3` or `fsdp2`: leave one of them out")
        if self.optimizer_states != "fp32" and self.parallel.deepspeed:
            raise ValueError(
                "DeepSpeed keeps `optimizer_states` in fp32: leave one of them out, or spread the run by "
                "`sharding: fsdp2`, with `bf16`"
            )
        if self.optimizer_states == "8bit" and self.parallel.sharding:
            raise ValueError("`optimizer_states: 8bit` does not go with `fsdp2`: set `bf16` or `fp32`")
        if self.compile and self.lora is not None and self.lora.quantize:
            raise ValueError("`compile` does not go with `lora.quantize`: leave one of them out")
        if self.max_prompt_length >= self.max_length:
            raise ValueError("`max_prompt_length` must be smaller than `max_length`")
        if self.checkpoint_every is not None and self.checkpoint_every > self.epochs:
            raise ValueError("`checkpoint_every` must not be larger than `epochs`")
        if self.horizon is not None and self.schedule == "constant":
            raise ValueError("`horizon` has no meaning for `schedule: constant`")
        if self.horizon is not None and self.horizon < self.epochs:
            raise ValueError("`horizon` must not be smaller than `epochs`")
        checkpoints = -(-self.epochs // (self.checkpoint_every or self.epochs))
        if checkpoints > MOST_CHECKPOINTS:
            raise ValueError(f"there would be {checkpoints} checkpoints; at most {MOST_CHECKPOINTS} are kept")
        if self.segments > checkpoints:
            raise ValueError(
                f"`segments` must not be larger than the number of checkpoints, which is {checkpoints}"
            )
        return self

    def kept_epochs(self) -> tuple[int, ...]:
        """Epochs after which a checkpoint is kept as an output; the last always is one."""
        every = self.checkpoint_every or self.epochs
        return tuple(sorted({*range(every, self.epochs + 1, every), self.epochs}))

    def legs(self) -> Sequence[Leg]:
        """A run to each checkpoint, of the same schedule; the axis `epoch` where the spec asks for some.

        A run to a checkpoint is the same work whatever else is kept, and however far the run goes on;
        so `checkpoint_every` is left out, and `horizon` stands in every leg whose schedule needs it.
        """
        horizon = None if self.schedule == "constant" else self.horizon or self.epochs
        told = {"checkpoint_every": None, "segments": 1, "horizon": horizon}
        if self.checkpoint_every is None:  # one leg, most often as it is written
            same = all(getattr(self, name) == value for name, value in told.items())
            return [Leg({}, self if same else self.model_copy(update=told))]
        kept = self.kept_epochs()
        return [
            Leg(
                {"epoch": epoch},
                self.model_copy(update={**told, "epochs": epoch}),
                number * self.segments // len(kept),
            )
            for number, epoch in enumerate(kept)
        ]
