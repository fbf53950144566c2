"""`reward`: a model of which of two answers is preferred, trained on preference pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import model_validator

from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job
from runtime.stage import TORCH, Problem, Resources, StageKind
from runtime.stages.reference import require_chat
from runtime.stages.sample import chat_templates
from runtime.stages.sft import trained
from runtime.training_config import TrainingConfig


class Reward(TrainingConfig):
    """Bradley-Terry: the chosen answer gets the higher reward, which is read at an answer's last token.

    What comes out is a Hugging Face sequence classifier of one label.
    """

    completions: ClassVar = ("chosen", "rejected")

    model: Reference = takes("Model", doc="where it starts; its output layer gives way to one reward")
    data: Reference = takes("Preferences", doc="preference pairs")
    centering: float = result(
        0.0, doc="weight of the squared sum of a pair's two rewards, which pulls rewards towards 0", ge=0
    )

    @model_validator(mode="after")
    def _no_dropout(self) -> Reward:
        if self.lora is not None and self.lora.dropout:
            raise ValueError("`lora.dropout` must be 0: `reward` trains without dropout")
        return self


def outputs(config: Reward, inputs: Mapping[str, Port]) -> dict[str, Port]:
    made = trained(inputs["model"], inputs["data"], inputs["model"].chat)
    return {name: replace(port, type="RewardModel") for name, port in made.items()}


def check(config: Reward, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    return require_chat(inputs)


def run(job: Job) -> None:
    from runtime.training.reward import train

    train(job)


STAGE = StageKind(
    name="reward",
    version=1,
    config=Reward,
    outputs=outputs,
    run=run,
    check=check,
    templates=chat_templates,
    prefix="epochs",
    legs=TrainingConfig.legs,
    resources=Resources(memory_gb=8, minutes=720),
    preload=TORCH,
)
