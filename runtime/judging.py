"""Pairs of answers to verdicts: which answer is shown first, how often the judge is asked, what it said.

In every verdict 1 means that `a` (the reference) is better, 2 that `b` (the model) is, 1.5 a tie, values
between them the same by degree, and null that there is no verdict.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, overload

from runtime.declare import LLM
from runtime.files import append_rows
from runtime.job import Job, JobError
from runtime.llms.base import Failure, Outcome, Request
from runtime.llms.batch_log import in_batches
from runtime.llms.client import Progress, ask_all
from runtime.llms.ledger import NAME as LEDGER
from runtime.llms.ledger import Ledger
from runtime.llms.purse import purse_of
from runtime.llms.shared import shelf_of
from runtime.parsers import TIE, LogprobsParser
from runtime.rows import RowsOnDisk, placed_rows
from runtime.statistics.estimates import mean
from runtime.wordings import Pair, Shown, Wording, open_wording, template

VERDICTS = "verdicts.jsonl"
AT_ONCE = 5_000  # pairs that are asked about before the next are read


class Judging(Protocol):
    """The settings of a judgement, as the configs of `label` and `evaluate` have them."""

    @property
    def template(self) -> str: ...
    @property
    def order(self) -> Literal["coin", "fixed", "both"]: ...
    @property
    def judge_temperature(self) -> float: ...
    @property
    def judge_max_tokens(self) -> int: ...
    @property
    def coin_seed(self) -> int: ...
    @property
    def repeats(self) -> int: ...


# ---------------------------------------------------------------- pairs


def read_completions(path: Path) -> Mapping[str, dict[str, Any]]:
    """Rows with completions, by id. Raises JobError for rows of another shape and repeated ids."""
    return read_by_id(path, "prompt", "completion")


def read_by_id(path: Path, *texts: str) -> Mapping[str, dict[str, Any]]:
    """Rows by id, each with these fields of text. Raises JobError for anything else."""
    rows = RowsOnDisk(path, "id", dict)
    try:
        for number, place, row in placed_rows(path):
            bad = [name for name in ("id", *texts) if not isinstance(row.get(name), str)]
            if bad:
                raise JobError(f"{path}: row {number} has no text in {', '.join(map(repr, bad))}")
            if row["id"] in rows:
                raise JobError(f"{path}: row {number} repeats the id {row['id']!r}")
            rows.place(row["id"], place)
    except ValueError as error:
        raise JobError(str(error)) from error
    return rows


Completions = Mapping[str, Mapping[str, Any]]


class Pairs(Sequence[Pair]):
    """Two completions each of some prompts, read when they are asked for."""

    def __init__(self, a: Completions, b: Completions, ids: Sequence[str]) -> None:
        self._a, self._b, self._ids = a, b, ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, which: int) -> Pair: ...
    @overload
    def __getitem__(self, which: slice) -> list[Pair]: ...
    def __getitem__(self, which: int | slice) -> Pair | list[Pair]:
        if isinstance(which, int):
            return self._pair(self._ids[which])
        return [self._pair(id_) for id_ in self._ids[which]]

    def _pair(self, id_: str) -> Pair:
        row = self._a[id_]
        return Pair(id_, row["prompt"], row["completion"], self._b[id_]["completion"])


def pair_up(a: Completions, b: Completions) -> Pairs:
    """Join two sets of completions by id, in `a`'s order. What has no partner is left out.

    Raises JobError where the same id stands for two prompts.
    """
    common = [id_ for id_ in a if id_ in b]
    for id_ in common:
        if a[id_]["prompt"] != b[id_]["prompt"]:
            raise JobError(f"the completions answer different prompts under the same id {id_!r}")
    return Pairs(a, b, common)


# ---------------------------------------------------------------- order


def coin(prompt: str, seed: int) -> bool:
    """Whether `b` is shown first. AlpacaEval's coin, so its published labels compare row by row."""
    return random.Random(f"is_switched_outputs{prompt}{seed}").choices([False, True], k=1)[0]


def orders(pair: Pair, config: Judging) -> tuple[Shown, ...]:
    """The orders in which a pair is shown to the judge."""
    if config.order == "both":
        return ("ab", "ba")
    if config.order == "coin" and coin(pair.prompt, config.coin_seed):
        return ("ba",)
    return ("ab",)


# ---------------------------------------------------------------- verdicts

Read = tuple[float | None, str | None]  # a preference, and why there is no clear one


def _request(pair: Pair, shown: Shown, repeat: int, asked: Wording, config: Judging) -> Request:
    """One question. Repeats differ in their seed, so that each is asked for itself."""
    first, second = pair.shown(shown)
    said = asked.parser.forms()
    told = {"task": "judge", "prompt": pair.prompt, "first": first, "second": second, "say": said}
    request = Request(
        id=_name(pair, shown, repeat),
        messages=asked.messages(pair, shown),
        temperature=config.judge_temperature if asked.temperature is None else asked.temperature,
        max_tokens=asked.max_tokens or config.judge_max_tokens,
        seed=repeat or None,
        context=told,
    )
    if isinstance(asked.parser, LogprobsParser):
        return replace(request, temperature=1.0, max_tokens=1, top_logprobs=asked.parser.top, choices=said)
    return request


def _name(pair: Pair, shown: Shown, repeat: int) -> str:
    return f"{pair.id}/{shown}/{repeat}" if repeat else f"{pair.id}/{shown}"


def turned(verdict: float, shown: Shown) -> float:
    """A verdict by position as a preference between `a` and `b`."""
    return verdict if shown == "ab" else 3 - verdict


def _read(outcome: Outcome, shown: Shown, asked: Wording) -> Read:
    """The preference in one outcome, or why there is none."""
    if isinstance(outcome, Failure):
        return None, f"failed: {outcome.kind}: {outcome.message}"
    verdict = asked.read(outcome.text, dict(outcome.logprobs or ()))
    if verdict is None:
        silent = isinstance(asked.parser, LogprobsParser) and outcome.logprobs is None
        return None, "unreadable: the server tells no log-probabilities" if silent else "unreadable"
    return turned(verdict, shown), "tie" if verdict == TIE else None


def _reconcile(read: Sequence[Read]) -> Read:
    """One preference of both orders; a judge that contradicts itself sees no difference."""
    for found, reason in read:
        if found is None:
            return None, reason
    return _middle([found for found, _ in read if found is not None])


def _over_repeats(read: Sequence[Read]) -> Read:
    """The mean of the repeats that have a preference; where none has, the first one's reason."""
    found = [preference for preference, _ in read if preference is not None]
    if not found or len(read) == 1:
        return read[0]
    middle = mean(found)
    return (middle, None) if middle != TIE else _middle(found)


def _middle(found: Sequence[float]) -> Read:
    """What preferences say together: a tie where they point to both sides, or to none; else their mean."""
    if min(found) < TIE < max(found) or len({x == TIE for x in found}) > 1:
        return TIE, "contradiction"
    middle = mean(found)
    return middle, "tie" if middle == TIE else None


def _row(pair: Pair, asked: Wording, **more: Any) -> dict[str, Any]:
    return {"id": pair.id, "prompt": pair.prompt, **more, "template": asked.hash}


def _identical(pair: Pair, asked: Wording) -> dict[str, Any]:
    return _row(pair, asked, preference=TIE, reason="identical", shown=[], replies=[], read=[], judge=None)


def _judged(
    pair: Pair, shown: Sequence[Shown], repeats: int, outcomes: Mapping[str, Outcome], asked: Wording
) -> dict[str, Any]:
    every = [(order, outcomes[_name(pair, order, r)]) for r in range(repeats) for order in shown]
    read = [_read(outcome, order, asked) for order, outcome in every]
    each = [_reconcile(read[i : i + len(shown)]) for i in range(0, len(read), len(shown))]
    found, reason = _over_repeats(each)
    told = [None if isinstance(o, Failure) else o for _, o in every]
    snapshots = [o.model for o in told if o and o.model]
    row = _row(
        pair,
        asked,
        preference=found,
        reason=reason,
        shown=[order for order, _ in every],
        replies=[o and o.text for o in told],
        read=[preference for preference, _ in read],
        judge=snapshots[0] if snapshots else None,
    )
    if isinstance(asked.parser, LogprobsParser):
        row["logprobs"] = [o and dict(o.logprobs or ()) for o in told]
    return row if repeats == 1 else {**row, "repeats": [preference for preference, _ in each]}


def judge(
    pairs: Sequence[Pair],
    declaration: LLM,
    config: Judging,
    ledger: Ledger,
    progress: Progress,
    asked: Wording | None = None,
) -> list[dict[str, Any]]:
    """One verdict row for each pair, in order. `asked` stands for the template that the config names.

    {id, prompt, preference, reason, shown, replies, read, judge, template}: `shown`, `replies` and `read`
    (the preference in a reply) are lists, one entry for each time the judge was asked; `reason` says why
    there is no clear preference (identical, tie, contradiction, unreadable, failed: ...), `judge` is the
    model's snapshot, `template` the hash of the wording. Where orders are asked again, `repeats` has the
    preference of each time, both orders reconciled, and `preference` is their mean. Where log-probabilities
    are read, `logprobs` has them beside `replies`. Pairs of equal answers are ties of which nobody is asked.
    """
    asked = asked or template(config.template)
    if isinstance(asked.parser, LogprobsParser) and declaration.provider == "anthropic":
        raise JobError(
            f"{asked.name} reads log-probabilities, and Anthropic's models tell none: "
            "choose a wording whose replies are read as text"
        )
    shown = {pair.id: orders(pair, config) for pair in pairs if pair.a != pair.b}
    again = range(config.repeats)
    requests = [_request(p, s, r, asked, config) for p in pairs for s in shown.get(p.id, ()) for r in again]
    outcomes = ask_all(declaration, requests, ledger, progress)
    return [
        _judged(p, shown[p.id], config.repeats, outcomes, asked) if p.id in shown else _identical(p, asked)
        for p in pairs
    ]


def count(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How the verdicts came out; all but `pairs` add up to `pairs`."""
    words = Counter((row["reason"] or "decided").partition(":")[0] for row in verdicts)
    return {
        "pairs": words.total(),
        "decided": words["decided"],
        "ties": words["tie"],
        "contradictions": words["contradiction"],
        "identical": words["identical"],
        "unreadable": words["unreadable"],
        "failed": words["failed"],
    }


# ---------------------------------------------------------------- in a job


def judge_job(job: Job, declaration: LLM, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, dict[str, Any]]]:
    """Judge pairs with the settings of a job's config; yields each with its verdict.

    So many are in memory as AT_ONCE says. When the last was taken, verdicts and ledger are in the job's
    artifact, and its report tells how they came out.
    """
    wording = job.optional("wording")
    asked = open_wording(wording.declared) if wording else template(job.config.template)
    found, lacking = Counter[str](), 0
    with (
        Ledger(job.scratch / LEDGER, purse_of(job), shelf_of(job)) as ledger,
        (job.out / VERDICTS).open("w", encoding="utf-8") as file,
    ):
        # Batches take hours each, and one that is under way may hold rows of any part.
        at_once = len(pairs) if in_batches(declaration, ledger.path) else AT_ONCE
        for start, part in _parts(pairs, at_once):
            progress = _progress(job, start, len(pairs))
            verdicts = judge(part, declaration, job.config, ledger, progress, asked)
            append_rows(file, verdicts)
            found.update(count(verdicts))
            lacking += sum(row.get("repeats", []).count(None) for row in verdicts)
            yield from zip(part, verdicts, strict=True)
        ledger.copy_to(job.out)
        job.report(**found, **ledger.totals().figures())
        if job.config.repeats > 1:
            job.report(repeats_without_preference=lacking)


def _parts(pairs: Sequence[Pair], most: int) -> Iterator[tuple[int, Sequence[Pair]]]:
    """Parts of about one size: a small last one, all of whose requests failed, would stop the job."""
    size = -(-len(pairs) // -(-len(pairs) // most))
    return ((start, pairs[start : start + size]) for start in range(0, len(pairs), size))


def _progress(job: Job, before: int, pairs: int) -> Progress:
    """Tells of requests, as if those behind had been one a pair."""
    return lambda done, total, text: job.progress(before + done, max(before + total, pairs), text)
