"""`reference`: log-probabilities of preference pairs under a frozen model, for all who train on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runtime.artifacts import Port
from runtime.fields import Reference, result, speed, takes
from runtime.job import Job
from runtime.stage import TORCH, Problem, Resources, StageConfig, StageKind
from runtime.stages.sample import chat_templates
from runtime.training_config import Parallel, Precision, Truncation


class ReferenceLogps(StageConfig):
    """Computed once, and read by every `dpo` run on the same model and data; a sweep makes one itself."""

    model: Reference = takes("Model", doc="the frozen model")
    data: Reference = takes("Preferences", doc="preference pairs")
    max_length: int = result(512, doc="as in the training", ge=2)
    max_prompt_length: int = result(256, doc="as in the training", ge=1)
    truncation: Truncation = result("drop", doc="as in the training")
    precision: Precision = result("fp32", doc="as in the training")
    batch_size: int = speed(8, doc="pairs computed together, where `micro_batch` is not given", ge=1)
    micro_batch: int | None = speed(None, doc="pairs computed together by each process", ge=1)
    padding: bool = speed(False, doc="as in the training")
    parallel: Parallel = speed(Parallel(), doc="processes and sharding")


def outputs(config: ReferenceLogps, inputs: Mapping[str, Port]) -> dict[str, Port]:
    return {"": Port(type="ReferenceLogps", path="reference.jsonl", pools=inputs["data"].pools)}


def require_chat(inputs: Mapping[str, Port]) -> Iterable[Problem]:
    """Pairs can only be rendered in the model's own chat format."""
    if inputs["model"].chat is None:
        yield Problem(
            "AC320", "model", "the model has no chat format", "train it first, or declare its `chat`"
        )


def check(config: ReferenceLogps, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    return require_chat(inputs)


def run(job: Job) -> None:
    from runtime.training.dpo import make_reference

    make_reference(job)


STAGE = StageKind(
    name="reference",
    version=2,
    config=ReferenceLogps,
    outputs=outputs,
    run=run,
    check=check,
    templates=chat_templates,
    resources=Resources(memory_gb=8, minutes=240),
    preload=TORCH,
)
