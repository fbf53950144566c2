"""`demonstrate`: asks a teacher for a completion of each prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runtime.artifacts import Port
from runtime.fields import Reference, result, takes
from runtime.job import Job
from runtime.stage import Resources, StageConfig, StageKind

if TYPE_CHECKING:
    from runtime.llms.base import Request


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
    from runtime.files import write_rows
    from runtime.job import JobError
    from runtime.judging import read_by_id
    from runtime.llms.base import Reply
    from runtime.llms.client import ask_all
    from runtime.llms.ledger import NAME, Ledger
    from runtime.llms.purse import purse_of
    from runtime.llms.shared import shelf_of

    prompts = read_by_id(job.input("prompts").path, "prompt")
    if not prompts:
        raise JobError("there are no prompts to ask")
    with Ledger(job.scratch / NAME, purse_of(job), shelf_of(job)) as ledger:
        requests = [_request(row, job.config) for row in prompts.values()]
        outcomes = ask_all(job.input("teacher").declared, requests, ledger, job.progress)
        ledger.copy_to(job.out)
        job.report(**ledger.totals().figures())
    replies = {id_: o for id_, o in outcomes.items() if isinstance(o, Reply)}
    full = {id_: reply.text for id_, reply in replies.items() if reply.text.strip()}
    if not full:
        raise JobError(f"the teacher answered none of {len(prompts)} prompts")
    write_rows(job.out / "data.jsonl", (_row(prompts[id_], text) for id_, text in full.items()))
    job.report(
        prompts=len(prompts),
        answered=len(full),
        failed=len(prompts) - len(replies),
        empty=len(replies) - len(full),
        cut_off=sum(replies[id_].finish_reason == "length" for id_ in full),
    )


def _request(row: Mapping[str, Any], config: Demonstrate) -> Request:
    from runtime.llms.base import Message, Request

    return Request(
        id=row["id"],
        messages=(Message("user", row["prompt"]),),
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        seed=config.seed,
        context={"task": "complete", "prompt": row["prompt"]},
    )


def _row(prompt: Mapping[str, Any], completion: str) -> dict[str, Any]:
    """A demonstration: what the prompt's row says of the prompt, and the teacher's answer."""
    kept = {name: prompt[name] for name in ("id", "prompt", "answer") if name in prompt}
    return {**kept, "completion": completion}


STAGE = StageKind(
    name="demonstrate",
    version=1,
    config=Demonstrate,
    outputs=outputs,
    run=run,
    resources=Resources(minutes=240),
)
