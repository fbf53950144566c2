"""`sample`: a model's completions of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Literal

from pydantic import model_validator

from runtime.artifacts import Port
from runtime.fields import Frozen, Reference, nothing, result, speed, takes
from runtime.job import Job
from runtime.known import ChatFormat
from runtime.stage import TORCH, Problem, Resources, StageConfig, StageKind

Engine = Literal["own", "vllm", "continuous"]


class Vllm(Frozen):
    """A vLLM server: one that the job starts with another environment's Python, or one that runs already."""

    python: str | None = speed(
        None, doc="absolute path of the Python of an environment with vLLM: the job starts a server with it"
    )
    args: tuple[str, ...] = speed((), doc="further arguments of the server that the job starts")
    start_s: int = nothing(1800, doc="seconds within which the server must be ready", ge=1)
    base_url: str | None = speed(
        None, doc="address of a server that runs already, such as `http://node7:8000/v1`, instead of `python`"
    )
    api_key_env: str = nothing(
        "VLLM_API_KEY", doc="environment variable that holds the key of `base_url`; never stored"
    )
    timeout_s: int = nothing(3600, doc="seconds within which a request must be answered", ge=1)

    @model_validator(mode="after")
    def _one_server(self) -> Vllm:
        if (self.python is None) == (self.base_url is None):
            raise ValueError("give either `python`, to start a server, or `base_url`, to ask one that runs")
        if self.python is not None and not PurePath(self.python).is_absolute():
            raise ValueError("`python` must be an absolute path: jobs run in folders of their own")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError("`base_url` must begin with http:// or https://")
        if self.base_url is not None and self.args:
            raise ValueError("`args` are those of a server that the job starts; it has no part in `base_url`")
        return self


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
    batch_size: int = speed(
        32, doc="prompts generated together; of the other engines: prompts in flight", ge=1
    )
    engine: Engine = result(
        "own",
        later=True,
        doc="what draws: `own` gives the same completions in any batch; `vllm` and `continuous` are faster "
        "and draw other ones, which depend on the batch too: they repeat as stored artifacts only",
    )
    vllm: Vllm | None = speed(None, doc="engine vllm: its server")

    @model_validator(mode="after")
    def _has_server(self) -> Sampling:
        if self.engine == "vllm" and self.vllm is None:
            raise ValueError("`engine: vllm` needs `vllm`: the `python` of its environment or a `base_url`")
        return self


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
