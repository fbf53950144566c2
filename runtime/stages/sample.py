"""`sample`: a model's completions of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from runtime.artifacts import Port
from runtime.fields import Frozen, Reference, result, speed, takes
from runtime.job import Job
from runtime.known import ChatFormat
from runtime.stage import TORCH, Problem, Resources, StageConfig, StageKind


class Sampling(Frozen):
    """How completions are drawn."""

    temperature: float = result(1.0, doc="sampling temperature; 0 is greedy", ge=0)
    top_p: float = result(1.0, doc="nucleus sampling: smallest set of tokens with this mass", gt=0, le=1)
    max_new_tokens: int = result(256, doc="longest completion in tokens", ge=1)
    max_prompt_length: int = result(256, doc="longer prompts keep their end; counted", ge=1)
    seed: int = result(
        0, doc="seed of the draws; each prompt's stream depends on it and the prompt's id alone"
    )
    chat: ChatFormat = result(None, doc="chat format to ask in; none: the model's own")
    batch_size: int = speed(32, doc="prompts generated together", ge=1)


class Sample(StageConfig, Sampling):
    """One completion for each prompt, in the model's own chat format unless another is named."""

    model: Reference = takes("Model", doc="a declared model or a trained one")
    prompts: Reference = takes("Prompts", doc="what to complete")


def outputs(config: Sample, inputs: Mapping[str, Port]) -> dict[str, Port]:
    made = replace(inputs["prompts"], type="Completions", path="data.jsonl")
    return {"": replace(made, seen=inputs["model"].seen, chosen=inputs["model"].chosen)}


def chat_templates(config: StageConfig, inputs: Mapping[str, Port]) -> Iterable[str]:
    """The chat format in which the stage reads and writes: its own, or else its model's."""
    chat = getattr(config, "chat", None) or inputs["model"].chat
    return (f"chat/{chat}.j2",) if chat else ()


def check(config: Sample, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    if config.chat is None and inputs["model"].chat is None:
        hint = "train it first, declare its `chat`, or name the `chat` to ask in"
        yield Problem("AC320", "model", "the model has no chat format", hint)


def run(job: Job) -> None:
    from runtime.training.sampling import sample

    sample(job)


STAGE = StageKind(
    name="sample",
    version=1,
    config=Sample,
    outputs=outputs,
    run=run,
    check=check,
    templates=chat_templates,
    resources=Resources(memory_gb=8, minutes=240),
    preload=TORCH,
)
