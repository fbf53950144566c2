"""`dpo`: direct preference optimisation of a model on preference pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job
from runtime.stage import TORCH, Problem, Resources, StageKind
from runtime.stages.sample import chat_templates
from runtime.stages.sft import trained
from runtime.training_config import TrainingConfig


class Dpo(TrainingConfig):
    """The policy starts from `model`, which is also the frozen reference."""

    model: Reference = takes("Model", doc="where the policy starts, and its reference")
    data: Reference = takes("Preferences", doc="preference pairs")
    beta: float = result(0.1, doc="strength of the pull towards the reference", gt=0)
    loss: Literal["sigmoid", "ipo"] = result(
        "sigmoid", doc="`sigmoid` is DPO; `ipo` is the summed form of IPO"
    )
    label_smoothing: float = result(0.0, doc="cDPO: assumed share of flipped labels", ge=0, lt=0.5)


def outputs(config: Dpo, inputs: Mapping[str, Port]) -> dict[str, Port]:
    return trained(inputs["model"], inputs["data"], inputs["model"].chat)


def check(config: Dpo, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    if inputs["model"].chat is None:
        yield Problem(
            "AC320", "model", "the model has no chat format", "train it first, or declare its `chat`"
        )
    if config.loss == "ipo" and config.label_smoothing:
        yield Problem(
            "AC321", "label_smoothing", "label smoothing has no meaning for `loss: ipo`", "remove it"
        )


def run(job: Job) -> None:
    from runtime.training.dpo import train

    train(job)


STAGE = StageKind(
    name="dpo",
    version=2,
    config=Dpo,
    outputs=outputs,
    run=run,
    check=check,
    templates=chat_templates,
    prefix="epochs",
    legs=TrainingConfig.legs,
    resources=Resources(memory_gb=8, minutes=720),
    preload=TORCH,
)
