"""Pairs of answers to verdicts: which answer is shown first, what the judge is asked, how it is read.

In every verdict 1 means that `a` (the reference) is better, 2 that `b` (the model) is, 1.5 a tie, and
null that there is no verdict.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, cast, overload

from runtime import templates
from runtime.declare import LLM
from runtime.files import RowsOnDisk, append_rows, digest_text, placed_rows
from runtime.job import Job, JobError
from runtime.llms.base import Failure, Message, Outcome, Request, Role
from runtime.llms.client import Progress, ask_all
from runtime.llms.ledger import NAME as LEDGER
from runtime.llms.ledger import Ledger
from runtime.llms.purse import purse_of

VERDICTS = "verdicts.jsonl"
AT_ONCE = 5_000  # pairs that are asked about before the next are read
Shown = Literal["ab", "ba"]  # which answer comes first
Choice = Literal["first", "second", "tie"]


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


# ---------------------------------------------------------------- pairs


@dataclass(frozen=True, slots=True)
class Pair:
    id: str
    prompt: str
    a: str
    b: str


def read_completions(path: Path) -> Mapping[str, dict[str, Any]]:
    """Rows with completions, by id. Raises JobError for rows of another shape and repeated ids."""
    return read_by_id(path, "prompt", "completion")


def read_by_id(path: Path, *texts: str) -> Mapping[str, dict[str, Any]]:
    """Rows by id, each with these fields of text. Raises JobError for anything else."""
    rows = RowsOnDisk(path)
    try:
        for number, place, row in placed_rows(path):
            bad = [name for name in ("id", *texts) if not isinstance(row.get(name), str)]
            if bad:
                raise JobError(f"{path}: row {number} has no text in {', '.join(map(repr, bad))}")
            if row["id"] in rows:
                raise JobError(f"{path}: row {number} repeats the id {row['id']!r}")
            rows.add(row["id"], place)
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


# ---------------------------------------------------------------- replies

_VERDICT = re.compile(r"""["'`*\s]*(?:output \((?P<choice>[ab])\)|(?P<tie>tie))["'`*.\s]*""", re.IGNORECASE)


def whole_reply(text: str) -> Choice | None:
    """A reply that is a verdict and nothing else; a verdict inside other words is only a quotation."""
    found = _VERDICT.fullmatch(text)
    if found is None:
        return None
    if found["tie"]:
        return "tie"
    return "first" if found["choice"].lower() == "a" else "second"


def last_line(text: str) -> Choice | None:
    """A reply that ends in a line that is a verdict and nothing else."""
    lines = text.strip().splitlines()
    return whole_reply(lines[-1]) if lines else None


PARSERS = {"whole_reply": whole_reply, "last_line": last_line}


# ---------------------------------------------------------------- templates


@dataclass(frozen=True, slots=True)
class Template:
    """A template of templates/judge/: its `parser` block names how a reply is read.

    Every other block is a message; a block's name up to the first `_` is the role.
    """

    name: str
    hash: str
    parser: str

    def messages(self, pair: Pair, shown: Shown) -> tuple[Message, ...]:
        first, second = (pair.a, pair.b) if shown == "ab" else (pair.b, pair.a)
        # No answer can hold the digest of itself, so none can pretend to end before it does.
        tag = digest_text("\0".join((pair.prompt, first, second)))[:12]
        values = {"prompt": pair.prompt, "first": first, "second": second, "tag": tag}
        source = templates.environment().get_template(f"judge/{self.name}.j2")
        return tuple(
            Message(cast(Role, block.partition("_")[0]), "".join(render(source.new_context(values))).strip())
            for block, render in source.blocks.items()
            if block != "parser"
        )

    def read(self, reply: str) -> Choice | None:
        return PARSERS[self.parser](reply)


@cache
def template(name: str) -> Template:
    """A template by name. Raises JobError for one that is not there or says nothing sensible."""
    known = templates.names("judge")
    if name not in known:
        raise JobError(f"there is no judge template {name!r}; there are: {', '.join(known)}")
    source = templates.environment().get_template(f"judge/{name}.j2")
    if "parser" not in source.blocks:
        raise JobError(f"the judge template {name!r} has no block `parser`")
    parser = "".join(source.blocks["parser"](source.new_context())).strip()
    roles = {block.partition("_")[0] for block in source.blocks if block != "parser"}
    if parser not in PARSERS or not roles or roles - {"system", "user", "assistant"}:
        raise JobError(
            f"the judge template {name!r} needs a parser of {sorted(PARSERS)} and blocks named by role"
        )
    text = (templates.folder() / "judge" / f"{name}.j2").read_text(encoding="utf-8")
    return Template(name, digest_text(text), parser)


# ---------------------------------------------------------------- verdicts


def _request(pair: Pair, shown: Shown, asked: Template, config: Judging) -> Request:
    first, second = (pair.a, pair.b) if shown == "ab" else (pair.b, pair.a)
    return Request(
        id=f"{pair.id}/{shown}",
        messages=asked.messages(pair, shown),
        temperature=config.judge_temperature,
        max_tokens=config.judge_max_tokens,
        context={"task": "judge", "prompt": pair.prompt, "first": first, "second": second},
    )


def preference(choice: Choice, shown: Shown) -> float:
    """A choice by position as a preference between `a` and `b`."""
    if choice == "tie":
        return 1.5
    return 1.0 if (choice == "first") == (shown == "ab") else 2.0


def _read(outcome: Outcome, shown: Shown, asked: Template) -> tuple[float | None, str | None]:
    """The preference in one outcome, or why there is none."""
    if isinstance(outcome, Failure):
        return None, f"failed: {outcome.kind}: {outcome.message}"
    choice = asked.read(outcome.text)
    if choice is None:
        return None, "unreadable"
    return preference(choice, shown), "tie" if choice == "tie" else None


def _reconcile(read: Sequence[tuple[float | None, str | None]]) -> tuple[float | None, str | None]:
    """One preference of all that were asked for; a judge that contradicts itself sees no difference."""
    for found, reason in read:
        if found is None:
            return None, reason
    found, reason = read[0]
    if any(other != found for other, _ in read):
        return 1.5, "contradiction"
    return found, reason


def _row(pair: Pair, asked: Template, **more: Any) -> dict[str, Any]:
    return {"id": pair.id, "prompt": pair.prompt, **more, "template": asked.hash}


def _identical(pair: Pair, asked: Template) -> dict[str, Any]:
    return _row(pair, asked, preference=1.5, reason="identical", shown=[], replies=[], read=[], judge=None)


def _judged(
    pair: Pair, shown: Sequence[Shown], outcomes: Sequence[Outcome], asked: Template
) -> dict[str, Any]:
    read = [_read(o, s, asked) for o, s in zip(outcomes, shown, strict=True)]
    found, reason = _reconcile(read)
    replies = [None if isinstance(o, Failure) else o.text for o in outcomes]
    snapshots = [o.model for o in outcomes if not isinstance(o, Failure) and o.model]
    return _row(
        pair,
        asked,
        preference=found,
        reason=reason,
        shown=list(shown),
        replies=replies,
        read=[preference for preference, _ in read],
        judge=snapshots[0] if snapshots else None,
    )


def judge(
    pairs: Sequence[Pair], declaration: LLM, config: Judging, ledger: Ledger, progress: Progress
) -> list[dict[str, Any]]:
    """One verdict row for each pair, in order.

    {id, prompt, preference, reason, shown, replies, read, judge, template}: `shown`, `replies` and `read`
    (the preference in a reply) are lists, one entry for each time the judge was asked; `reason` says why
    there is no clear preference (identical, tie, contradiction, unreadable, failed: ...), `judge` is the
    model's snapshot, `template` the hash of the template's file. Pairs of equal answers are ties of which
    nobody is asked.
    """
    asked = template(config.template)
    shown = {pair.id: orders(pair, config) for pair in pairs if pair.a != pair.b}
    requests = [_request(p, s, asked, config) for p in pairs for s in shown.get(p.id, ())]
    outcomes = ask_all(declaration, requests, ledger, progress)
    return [
        _judged(p, shown[p.id], [outcomes[f"{p.id}/{s}"] for s in shown[p.id]], asked)
        if p.id in shown
        else _identical(p, asked)
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
    found = Counter[str]()
    with (
        Ledger(job.scratch / LEDGER, purse_of(job)) as ledger,
        (job.out / VERDICTS).open("w", encoding="utf-8") as file,
    ):
        for start, part in _parts(pairs):
            verdicts = judge(part, declaration, job.config, ledger, _progress(job, start, len(pairs)))
            append_rows(file, verdicts)
            found.update(count(verdicts))
            yield from zip(part, verdicts, strict=True)
        ledger.copy_to(job.out)
        job.report(**found, **ledger.totals().figures())


def _parts(pairs: Sequence[Pair]) -> Iterator[tuple[int, Sequence[Pair]]]:
    """Parts of about one size: a small last one, all of whose requests failed, would stop the job."""
    size = -(-len(pairs) // -(-len(pairs) // AT_ONCE))
    return ((start, pairs[start : start + size]) for start in range(0, len(pairs), size))


def _progress(job: Job, before: int, pairs: int) -> Progress:
    """Tells of requests, as if those behind had been one a pair."""
    return lambda done, total, text: job.progress(before + done, max(before + total, pairs), text)
