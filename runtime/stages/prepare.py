"""`prepare`: reads a source or a split, drops duplicates, and cuts it into named, disjoint splits."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import WithJsonSchema

from runtime.artifacts import Pool, Port, Role
from runtime.fields import Frozen, Reference, identity, result, takes
from runtime.files import digest_text, read_rows, write_rows
from runtime.job import Job, JobError
from runtime.stage import Problem, Resources, StageConfig, StageKind

if TYPE_CHECKING:
    from runtime.sources import Row

REST = "rest"
NAME = re.compile(r"[A-Za-z0-9_-]+")  # split names are file names
PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")
SHARE = r"^\d+(\.\d+)? ?%$|^rest$"  # in what editors know of specs
PLENTY = 10**12  # rows of a source so large that only shares fail that never fit


def _shares() -> dict[str, Any]:
    """What editors know of `split`: more than that it holds text and numbers."""
    share = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SHARE}]}
    return {"anyOf": [{"type": "object", "additionalProperties": share}, {"type": "null"}]}


class Prepare(StageConfig):
    """Prompts (with completions, where the source has them) or preference pairs, cut into splits."""

    source: Reference = takes("Source", "Prompts", doc="a declared source, or a split to cut further")
    split: Annotated[dict[str, str | int] | None, WithJsonSchema(_shares())] = result(
        None, doc="split name -> share (`10%`), number of rows, or `rest`; none: one output without a name"
    )
    roles: dict[str, Role] = result(
        {}, doc="split name -> train, validation or test; by default read from the name"
    )
    shuffle: bool = result(True, doc="order rows by a seeded hash of their id; false: file order")
    seed: int = result(0, doc="seed of the order")
    limit: int | None = result(None, doc="keep this many rows, before the cut", ge=1)
    max_prompt_chars: int | None = result(None, doc="drop longer prompts", ge=1)
    only_full: bool = result(False, doc="drop rows whose prompt or completion is empty")


def role_of(split: str, roles: Mapping[str, Role], default: Role = "train") -> Role:
    """The role of a split: as declared, else `test*` and `val*`/`dev*` by name, else the default."""
    if split in roles:
        return roles[split]
    if split.startswith("test"):
        return "test"
    return "validation" if split.startswith(("val", "dev")) else default


def _whole(source: Port) -> Port:
    """What comes out of a source, or of a split, that is not cut."""
    if source.declared is None:
        return source
    declared = source.declared
    kind = getattr(declared, "kind", "")
    documents = kind == "world" and getattr(declared, "what", "") == "documents"
    completed = kind in ("sharegpt", "alpaca_eval") or any(
        getattr(declared, field, None) for field in ("completion", "messages")
    )
    made = "Demonstrations" if completed or documents else "Prompts"
    return Port(
        type="Preferences" if kind == "preferences" else made,
        pools=frozenset({Pool(_rows_of(declared), (), "train")}),
        answers=(kind == "world" and not documents) or bool(getattr(declared, "answer", None)),
    )


def _rows_of(declared: Frozen) -> str:
    """What tells sources apart by their rows: two declarations that read one file have the same."""
    columns = {"prompt", "completion", "messages", "answer", "rows"}
    return declared.model_dump_json(exclude=columns)


def outputs(config: Prepare, inputs: Mapping[str, Port]) -> dict[str, Port]:
    whole = _whole(inputs["source"])
    preparation = json.dumps(identity(config), sort_keys=True)

    def port(split: str) -> Port:
        pools = (
            Pool(p.source, (*p.cuts, (preparation, split)), role_of(split, config.roles, p.role))
            for p in whole.pools
        )
        return replace(whole, path=f"{split or 'data'}.jsonl", pools=frozenset(pools))

    return {split: port(split) for split in (config.split or {"": REST})}


def check(config: Prepare, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    for name in config.roles:
        if name not in (config.split or {}):
            yield Problem("AC310", "roles", f"there is no split called {name!r}")
    for name in config.split or {}:
        if not NAME.fullmatch(name):
            hint = "use letters, digits, `_` and `-`"
            yield Problem("AC312", "split", f"{name!r} cannot name a split", hint)
    try:
        shares(config.split or {}, PLENTY)
    except ValueError as error:
        yield Problem("AC311", "split", str(error), "give shares as `10%`, numbers of rows, or one `rest`")


def shares(split: Mapping[str, str | int], total: int) -> dict[str, int]:
    """Rows of each split of `total` rows; percentages round down, `rest` takes what is left.

    Raises ValueError for a share that cannot be read and for more than all rows.
    """
    takers = [name for name, share in split.items() if share == REST]
    if len(takers) > 1:
        raise ValueError(f"only one split can take the rest, not {' and '.join(takers)}")
    counts = {name: _count(name, share, total) for name, share in split.items() if share != REST}
    left = total - sum(counts.values())
    if left < 0:
        raise ValueError("the splits together ask for more than all rows")
    return {name: counts.get(name, left) for name in split}


def _count(name: str, share: str | int, total: int) -> int:
    if isinstance(share, int) and not isinstance(share, bool) and share >= 0:
        return share
    percent = PERCENT.fullmatch(str(share))
    if percent is None or Fraction(percent[1]) > 100:
        raise ValueError(f"{share!r} is no share for the split {name!r}")
    return math.floor(Fraction(percent[1]) * total / 100)


def cut(rows: Sequence[Row], split: Mapping[str, str | int]) -> dict[str, Sequence[Row]]:
    """Disjoint splits of consecutive rows. The order of the names in the spec does not matter."""
    counts = shares(split, len(rows))
    found: dict[str, Sequence[Row]] = {}
    start = 0
    for name in sorted(counts):
        found[name] = rows[start : start + counts[name]]
        start += counts[name]
    return found


def ordered(rows: Iterable[Row], seed: int) -> list[Row]:
    """Rows by a seeded hash of their id: rows that are added later do not move the others about."""
    return sorted(rows, key=lambda row: (digest_text(f"{seed}:{row['id']}"), row["id"]))


def kept(config: Prepare, rows: Iterable[Row], dropped: Counter[str]) -> Iterator[Row]:
    """The rows that pass the filters; the others are counted by what they failed."""
    for row in rows:
        if config.max_prompt_chars is not None and len(row["prompt"]) > config.max_prompt_chars:
            dropped["long_prompt"] += 1
        elif config.only_full and not (row["prompt"].strip() and row.get("completion", "full").strip()):
            dropped["empty"] += 1
        else:
            yield row


def _splits(config: Prepare, rows: list[Row]) -> dict[str, Sequence[Row]]:
    """The splits, each with at least one row. Raises JobError."""
    try:
        splits = cut(rows, config.split or {"": REST})
    except ValueError as error:
        raise JobError(
            f"{len(rows)} rows are too few: {error}; lower `split`, or loosen the filters"
        ) from error
    for name, part in splits.items():
        if not part:
            share = (config.split or {}).get(name, REST)
            raise JobError(
                f"the split {name or 'data'!r} is empty: {share} of {len(rows)} rows; "
                "enlarge its share, or loosen the filters"
            )
    return splits


def require_unchanged(job: Job, field: str) -> None:
    """Raise JobError where a source's files are no longer those whose content is in the recipe."""
    from runtime.fingerprint import fingerprint

    (record,) = job.description["recipe"]["inputs"][field]
    content, path = record.get("content"), getattr(job.input(field).declared, "path", None)
    if content and path and Path(path).exists() and fingerprint(Path(path)) != content:
        raise JobError(f"{path} has changed since this job was planned; plan and submit again")


def _rows(job: Job, dropped: Counter[str]) -> Iterable[Row]:
    """All rows of the input, duplicates and filters not yet applied."""
    from runtime.sources import read

    source = job.input("source")
    if source.declared is None:
        return cast("Iterable[Row]", read_rows(source.path))
    require_unchanged(job, "source")
    return read(source.declared, dropped)


def run(job: Job) -> None:
    from runtime.sources import unique

    config: Prepare = job.config
    dropped = Counter[str]()
    rows = list(unique(kept(config, _rows(job, dropped), dropped), dropped))
    full = len(rows)
    if config.shuffle:
        rows = ordered(rows, config.seed)
    rows = rows[: config.limit]
    splits = _splits(config, rows)
    for name, part in splits.items():
        write_rows(job.out / f"{name or 'data'}.jsonl", part)
    sizes = {name or "data": len(part) for name, part in splits.items()}
    read_in_all = full + sum(dropped.values())
    job.report(read=read_in_all, dropped=dict(dropped), rows=sizes, unused=full - sum(sizes.values()))


STAGE = StageKind(
    name="prepare",
    version=1,
    config=Prepare,
    outputs=outputs,
    run=run,
    check=check,
    resources=Resources(minutes=30),
)
