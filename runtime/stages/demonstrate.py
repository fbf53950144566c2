"""`demonstrate`: asks a teacher for a completion of each prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job
from runtime.stage import Resources, StageConfig, StageKind


class Demonstrate(StageConfig):
    """A teacher's completions; prompts that it failed to answer are left out, and counted."""

    prompts: Reference = takes("Prompts", doc="what to ask")
    teacher: Reference = takes("LLM", doc="a declared llm")
    temperature: float = result(1.0, doc="sampling temperature; 0 is greedy", ge=0)
    max_tokens: int = result(2048, doc="longest answer in tokens", ge=1)
    seed: int = result(0, doc="seed, where the provider has one")


def outputs(config: Demonstrate, inputs: Mapping[str, Port]) -> dict[str, Port]:
    return {"": replace(inputs["prompts"], type="Demonstrations", path="data.jsonl")}


def run(job: Job) -> None:
    raise NotImplementedError


STAGE = StageKind(
    name="demonstrate", version=1, config=Demonstrate, outputs=outputs, run=run, resources=Resources(minutes=240)
)
