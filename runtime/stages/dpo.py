"""`dpo`: direct preference optimisation of a model on preference pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job
from runtime.stage import TORCH, Problem, Resources, StageKind
from runtime.stages.reference import require_chat
from runtime.stages.sample import chat_templates
from runtime.stages.sft import trained
from runtime.training_config import TrainingConfig

Loss = Literal["sigmoid", "robust", "ipo", "ipo_mean", "apo_zero", "simpo"]
SMOOTHED = ("sigmoid", "robust")  # by `label_smoothing`
_SHARED_NAME = "~reference"  # behind a stage's name: what `share` makes


class Dpo(TrainingConfig):
    """The policy starts from `model`, which is also the frozen reference."""

    completions: ClassVar = ("chosen", "rejected")

    model: Reference = takes("Model", doc="where the policy starts, and its reference")
    data: Reference = takes("Preferences", doc="preference pairs")
    reference: Reference | None = takes(
        "ReferenceLogps",
        default=None,
        affects="speed",
        doc="log-probabilities of the reference, from a `reference` stage; none: computed in this job",
    )
    beta: float = result(
        0.1, doc="strength of the pull towards the reference; SimPO: scale of the rewards (2 to 10)", gt=0
    )
    loss: Loss = result(
        "sigmoid",
        doc="`sigmoid` is DPO; `robust` its form for noisy labels; `ipo` is the summed form of IPO, "
        "`ipo_mean` that per token; `apo_zero` judges each answer by itself; `simpo` has no reference",
    )
    label_smoothing: float = result(
        0.0, doc="`sigmoid` (then cDPO) and `robust`: assumed share of flipped labels", ge=0, lt=0.5
    )
    gamma: float = result(0.0, doc="`simpo`: margin of rewards that is aimed at", ge=0)

    @model_validator(mode="after")
    def _no_dropout(self) -> Dpo:
        if self.lora is not None and self.lora.dropout:
            raise ValueError(
                "`lora.dropout` must be 0: `dpo` trains without dropout, as its reference was computed"
            )
        return self


def outputs(config: Dpo, inputs: Mapping[str, Port]) -> dict[str, Port]:
    return trained(inputs["model"], inputs["data"], inputs["model"].chat)


def check(config: Dpo, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    yield from require_chat(inputs)
    meaningless = (
        ("label_smoothing", "label smoothing", config.label_smoothing and config.loss not in SMOOTHED),
        ("gamma", "`gamma`", config.gamma and config.loss != "simpo"),
        ("reference", "a reference", config.loss == "simpo" and _named(config.reference)),
    )
    for field, words, found in meaningless:
        if found:
            yield Problem("AC321", field, f"{words} has no meaning for `loss: {config.loss}`", "remove it")

    if config.lora is not None and config.lora.quantize and _named(config.reference):
        yield Problem(
            "AC321",
            "reference",
            "the reference of `lora.quantize` is the model in 4 bits, which this job computes itself",
            "remove it",
        )


def _named(reference: Reference | None) -> bool:
    """Whether a reference was asked for; a sweep gives its own to all points alike."""
    return reference is not None and not reference.stage.endswith(_SHARED_NAME)


# What the reference's log-probabilities depend on; a sweep of anything else shares them.
SHARED = ("model", "data", "max_length", "max_prompt_length", "truncation", "precision")
LIKE_IT = ("batch_size", "micro_batch", "padding", "parallel", "resources")


def share(name: str, body: dict[str, Any], swept: frozenset[str]) -> dict[str, dict[str, Any]]:
    """A sweep computes the reference's log-probabilities once for all its points."""
    lora = _written(body.get("lora"))
    its_own = isinstance(lora, dict) and _written(lora.get("quantize")) is not None
    its_own |= _written(body.get("loss")) == "simpo"
    if "reference" in body or its_own or swept & {*SHARED, "reference"}:
        return {name: body}
    reference = name + _SHARED_NAME
    told = {key: body[key] for key in (*SHARED, *LIKE_IT) if key in body}
    return {reference: {"kind": "reference", **told}, name: {**body, "reference": reference}}


def _written(value: Any) -> Any:
    """What stands in the spec, without its place in the file."""
    return getattr(value, "value", value)


def run(job: Job) -> None:
    from runtime.training.dpo import train

    train(job)


STAGE = StageKind(
    name="dpo",
    version=3,
    config=Dpo,
    outputs=outputs,
    run=run,
    check=check,
    templates=chat_templates,
    prefix="epochs",
    legs=TrainingConfig.legs,
    share=share,
    resources=Resources(memory_gb=8, minutes=720),
    preload=TORCH,
)
