"""The types of artifact that flow between stages, and what is known of them before they exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.fields import Frozen

# Each type and the type it refines: whatever takes the second accepts the first.
#
# Prompts         rows {id, prompt[, answer]}; `answer` only where the source knows the truth
# Completions     + {completion}: anybody's answers
# Demonstrations  Completions that a teacher or a data set wrote
# Preferences     rows {id, prompt, chosen, rejected}
# Verdicts        one row for each judged pair, informative or not
# Model           a Hugging Face directory with an `alignc.json` that names its chat format
# RewardModel     a Hugging Face sequence classifier of one label, with an `alignc.json` too
# ReferenceLogps  rows {id, chosen, rejected} behind a header: log-probabilities of a frozen model
# Scores          metrics.json and per-prompt items.jsonl
PARENTS: dict[str, str | None] = {
    "Prompts": None,
    "Completions": "Prompts",
    "Demonstrations": "Completions",
    "Preferences": None,
    "Verdicts": None,
    "Model": None,
    "RewardModel": None,
    "ReferenceLogps": None,
    "Scores": None,
    # Declared in a spec, not made by a stage:
    "Source": None,
    "Lengths": None,
    "LLM": None,
    "Wording": None,
}

Role = Literal["train", "validation", "test"]


def is_a(given: str, wanted: str) -> bool:
    """Whether an artifact of type `given` serves where `wanted` is taken."""
    current: str | None = given
    while current is not None:
        if current == wanted:
            return True
        current = PARENTS.get(current)
    return False


@dataclass(frozen=True, slots=True)
class Pool:
    """A set of prompts: a source, and how it was cut down to them.

    `cuts` are (preparation, split) from the source on; a preparation is identified by its settings,
    so that equal pools are equal values.
    """

    source: str
    cuts: tuple[tuple[str, str], ...]
    role: Role

    def may_overlap(self, other: Pool) -> bool:
        """Whether a prompt may be in both: same source, unless one preparation keeps them apart."""
        if self.source != other.source:
            return False
        for (preparation, split), (another, other_split) in zip(self.cuts, other.cuts, strict=False):
            if preparation != another:
                return True
            if split != other_split:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Port:
    """One output of a stage (or one declaration) as the compiler knows it.

    `path` is the place inside the sealed artifact.
    """

    type: str
    path: str = ""
    pools: frozenset[Pool] = frozenset()  # data: which prompts these are
    seen: frozenset[Pool] = frozenset()  # models and their completions: prompts trained on
    chosen: frozenset[Pool] = frozenset()  # the same: prompts whose scores chose the model
    metrics: tuple[str, ...] = ()  # Scores: the fields a table or a choice may read
    answers: bool = False  # Prompts: rows carry the true answer
    chat: str | None = None  # Model: its chat format, where known
    base: str | None = None  # Model: name of the declared model it descends from (its tokenizer)
    name: str = ""  # declarations: their name in the spec
    declared: Frozen | None = None  # declarations: their value
