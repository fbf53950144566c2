"""Everything that is known of an experiment's results, read once: jobs, tables, claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.results.claim_words import claims_text
from runtime.results.claims import Decided, decide_claims
from runtime.results.description import Description
from runtime.results.jobs import Job
from runtime.results.load import Shelf, described, survey_of, tables_of
from runtime.results.table import Table
from runtime.results.text import render_text
from runtime.store import Store


@dataclass(frozen=True, slots=True)
class Results:
    """`jobs` by the names of their nodes."""

    description: Description
    jobs: Mapping[str, Job]
    tables: tuple[Table, ...]
    claims: tuple[Decided, ...]

    def text(self) -> str:
        """The tables, then the claims, for a terminal."""
        return "\n\n".join(filter(None, [*map(render_text, self.tables), claims_text(self.claims)]))


def load_results(store: Store, description: Mapping[str, Any] | Description) -> Results:
    """What the store holds now of what a description names."""
    checked, shelf = described(store, description), Shelf(store)
    jobs = survey_of(store, checked)
    tables = tables_of(checked, jobs, shelf)
    return Results(checked, jobs, tuple(tables), tuple(decide_claims(checked, tables, jobs, shelf)))
