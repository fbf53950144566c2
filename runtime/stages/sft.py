"""`sft`: supervised fine-tuning of a model on demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job
from runtime.known import ChatFormat
from runtime.stage import TORCH, Problem, Resources, StageKind
from runtime.stages.sample import chat_templates
from runtime.training_config import Reduction, TrainingConfig


class Sft(TrainingConfig):
    """Loss on the completion and its end-of-sequence token only."""

    completions: ClassVar = ("completion",)

    model: Reference = takes("Model", doc="a declared model or a trained one")
    data: Reference = takes("Demonstrations", "Completions", doc="what to imitate")
    chat: ChatFormat = result(None, doc="chat format to train in; none: the model's own")
    reduction: Reduction = result(
        "token_mean", doc="how token losses make a batch loss; `example_sum` is the lineage of the DPO papers"
    )


def trained(model: Port, data: Port, chat: str | None) -> dict[str, Port]:
    """The output of a training stage: a checkpoint that remembers what it was trained on."""
    return {
        "": Port(
            type="Model",
            path="model",
            seen=model.seen | data.pools,
            chosen=model.chosen,
            chat=chat,
            base=model.base or model.name,
        )
    }


def outputs(config: Sft, inputs: Mapping[str, Port]) -> dict[str, Port]:
    return trained(inputs["model"], inputs["data"], config.chat or inputs["model"].chat)


def check(config: Sft, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    if config.chat is None and inputs["model"].chat is None:
        yield Problem(
            "AC320",
            "model",
            "the model has no chat format, and the stage names none",
            "add `chat: human_assistant`",
        )


def run(job: Job) -> None:
    from runtime.training.sft import train

    train(job)


STAGE = StageKind(
    name="sft",
    version=3,
    config=Sft,
    outputs=outputs,
    run=run,
    check=check,
    templates=chat_templates,
    prefix="epochs",
    legs=TrainingConfig.legs,
    resources=Resources(memory_gb=8, minutes=720),
    preload=TORCH,
)
