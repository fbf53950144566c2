"""`dpo`: direct preference optimisation of a model on preference pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import model_validator

from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job
from runtime.stage import TORCH, Problem, Resources, StageKind
from runtime.stages.reference import require_chat
from runtime.stages.sample import chat_templates
from runtime.stages.sft import trained
from runtime.training_config import TrainingConfig


class Dpo(TrainingConfig):
    """The policy starts from `model`, which is also the frozen reference."""

    model: Reference = takes("Model", doc="where the policy starts, and its reference")
    data: Reference = takes("Preferences", doc="preference pairs")
    reference: Reference | None = takes(
        "ReferenceLogps",
        default=None,
        affects="speed",
        doc="log-probabilities of the reference, from a `reference` stage; none: computed in this job",
    )
    beta: float = result(0.1, doc="strength of the pull towards the reference", gt=0)
    loss: Literal["sigmoid", "ipo", "ipo_mean"] = result(
        "sigmoid", doc="`sigmoid` is DPO; `ipo` is the summed form of IPO, `ipo_mean` that per token"
    )
    label_smoothing: float = result(0.0, doc="cDPO: assumed share of flipped labels", ge=0, lt=0.5)

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
    if config.loss != "sigmoid" and config.label_smoothing:
        yield Problem(
            "AC321",
            "label_smoothing",
            f"label smoothing has no meaning for `loss: {config.loss}`",
            "remove it",
        )


# What the reference's log-probabilities depend on; a sweep of anything else shares them.
SHARED = ("model", "data", "max_length", "max_prompt_length", "truncation", "precision")
LIKE_IT = ("batch_size", "micro_batch", "padding", "parallel", "resources")


def share(name: str, body: dict[str, Any], swept: frozenset[str]) -> dict[str, dict[str, Any]]:
    """A sweep computes the reference's log-probabilities once for all its points."""
    if "reference" in body or swept & {*SHARED, "reference"}:
        return {name: body}
    reference = f"{name}~reference"
    told = {key: body[key] for key in (*SHARED, *LIKE_IT) if key in body}
    return {reference: {"kind": "reference", **told}, name: {**body, "reference": reference}}


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
