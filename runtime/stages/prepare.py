"""`prepare`: reads a source, drops duplicates, and cuts it into named, disjoint splits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from runtime.artifacts import Pool, Port, Role
from runtime.fields import Reference, identity, result, takes
from runtime.job import Job
from runtime.stage import Problem, Resources, StageConfig, StageKind


class Prepare(StageConfig):
    """Prompts (with completions, where the source has them), cut into splits."""

    source: Reference = takes("Source", doc="a declared source")
    split: dict[str, str | int] | None = result(
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


def role_of(split: str, roles: Mapping[str, Role]) -> Role:
    """The role of a split: as declared, else `test*` and `val*`/`dev*` by name, else train."""
    if split in roles:
        return roles[split]
    if split.startswith("test"):
        return "test"
    return "validation" if split.startswith(("val", "dev")) else "train"


def outputs(config: Prepare, inputs: Mapping[str, Port]) -> dict[str, Port]:
    source = inputs["source"]
    declared = source.declared
    kind = getattr(declared, "kind", "")
    completed = kind in ("sharegpt", "alpaca_eval") or bool(
        getattr(declared, "completion", None) or getattr(declared, "messages", None)
    )
    documents = kind == "world" and getattr(declared, "what", "") == "documents"
    answers = (kind == "world" and not documents) or bool(getattr(declared, "answer", None))
    cut = json.dumps(identity(config), sort_keys=True)

    def port(split: str) -> Port:
        return Port(
            type="Demonstrations" if completed or documents else "Prompts",
            path=f"{split or 'data'}.jsonl",
            pools=frozenset({Pool(source.name, cut, split, role_of(split, config.roles))}),
            answers=answers,
        )

    return {split: port(split) for split in (config.split or {"": "rest"})}


def check(config: Prepare, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    for name in config.roles:
        if name not in (config.split or {}):
            yield Problem("AC310", "roles", f"there is no split called {name!r}")
    try:
        shares(config.split or {}, 1000)
    except ValueError as error:
        yield Problem("AC311", "split", str(error), "give shares as `10%`, numbers of rows, or one `rest`")


def shares(split: Mapping[str, str | int], total: int) -> dict[str, int]:
    """Rows of each split of `total` rows; percentages round down, `rest` takes what is left.

    Raises ValueError for a share that cannot be read and for more than all rows.
    """
    raise NotImplementedError


def run(job: Job) -> None:
    raise NotImplementedError


STAGE = StageKind(
    name="prepare", version=1, config=Prepare, outputs=outputs, run=run, check=check, resources=Resources(minutes=30)
)
