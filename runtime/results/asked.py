"""What was asked of language models, and what it cost: by stage, and for a label that became a preference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.plural import counted
from runtime.results.jobs import Job


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests of some jobs. `usd` is None where a price is unknown, `labels` where none was asked for.

    shared: replies that other jobs had paid for, beside `requests`.
    """

    what: str
    llm: str
    jobs: int
    requests: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    labels: int | None = None
    shared: int = 0

    @property
    def shared_share(self) -> float:
        return self.shared / (self.requests + self.shared)

    @property
    def usd_per_label(self) -> float | None:
        """Dollars for a label that became a preference: ties and unreadable replies are paid for, too."""
        return self.usd / self.labels if self.usd is not None and self.labels else None


def asked_of(jobs: Iterable[Job]) -> list[Asked]:
    """A line for each stage and llm that was asked; of sealed jobs, each artifact once."""
    found: dict[tuple[str, str], dict[str, Job]] = {}
    seen: set[str] = set()
    for job in jobs:
        if (job.summary.get("requests") or job.summary.get("shared")) and job.key not in seen:
            seen.add(job.key)
            found.setdefault((job.stage, _llm(job.manifest)), {})[job.key] = job
    return [_sum(stage, llm, list(made.values())) for (stage, llm), made in found.items()]


def total(lines: Iterable[Asked]) -> Asked:
    """All of it. Dollars that are not known are not in it."""
    lines = list(lines)
    known = [line.usd for line in lines if line.usd is not None]
    return Asked(
        "all",
        "",
        sum(line.jobs for line in lines),
        sum(line.requests for line in lines),
        sum(line.input_tokens for line in lines),
        sum(line.output_tokens for line in lines),
        sum(known) if known else None,
        shared=sum(line.shared for line in lines),
    )


def told(jobs: Iterable[Job]) -> str:
    """What was paid, in one line for a terminal; empty where nothing was."""
    lines = [line for line in asked_of(jobs) if line.usd]
    whole = total(lines)
    if not whole.usd:
        return ""
    labelled = [line for line in lines if line.usd_per_label is not None]
    each = ", ".join(f"${line.usd_per_label:.4f} a label of {line.llm} ({line.what})" for line in labelled)
    tokens = f"{whole.input_tokens + whole.output_tokens:,} tokens"
    shared = f"; {whole.shared_share:.0%} of replies shared" if whole.shared else ""
    paid = f"paid: {counted(whole.requests, 'request')}, {tokens}, ${whole.usd:,.2f}"
    return paid + shared + (each and f"; {each}")


def _sum(stage: str, llm: str, jobs: list[Job]) -> Asked:
    summaries = [job.summary for job in jobs]
    dollars = [each.get("dollars") for each in summaries]
    labels = [job.summary.get("decided") or 0 for job in jobs if job.kind == "label"]
    return Asked(
        stage,
        llm,
        len(jobs),
        _add(summaries, "requests"),
        _add(summaries, "input_tokens"),
        _add(summaries, "output_tokens"),
        None if None in dollars else sum(each for each in dollars if each is not None),
        sum(labels) if labels else None,
        _add(summaries, "shared"),
    )


def _add(summaries: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(each.get(name) or 0 for each in summaries)


def _llm(manifest: Mapping[str, Any]) -> str:
    """Provider and model that a job asked, and whether in batches."""
    for records in (manifest.get("inputs") or {}).values():
        for record in records:
            if record.get("section") == "llms":
                declared = record["declared"]
                model = declared.get("model")
                name = declared["provider"] + (f"/{model}" if isinstance(model, str) else "")
                return f"{name}, in batches" if declared.get("mode") == "batch" else name
    return ""
