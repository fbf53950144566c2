"""Holds a spec's `budget` against what was spent and what is likely to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compiler.cost.amounts import Costs, Range
from compiler.cost.words import dollars, short
from compiler.errors import Diagnostic, Span, SpecError
from compiler.program import Program
from runtime.spending import Spent


@dataclass(frozen=True, slots=True)
class Held:
    """One limit of a budget: what it allows, what was spent, what is likely to be spent yet."""

    name: str
    limit: float
    spent: float
    likely: float
    high: float

    @property
    def over(self) -> bool:
        """Whether what is to come does not fit; a budget that is used up allows nothing more."""
        return self.high > 0 and (
            self.spent + self.likely > self.limit or self.spent >= self.limit * (1 - 1e-9)
        )

    @property
    def words(self) -> str:
        show = dollars if self.name == "usd" else short
        unit = "" if self.name == "usd" else " GPU-hours"
        return (
            f"{show(self.spent)} spent and {show(self.likely)} likely to come "
            f"(at most {show(self.high)}) of {show(self.limit)}{unit}"
        )


def hold(program: Program, costs: Costs, spent: Spent) -> list[Held]:
    """Every limit that the spec states. What a node has spent already is not expected of it again."""
    budget, keys = program.spec.budget, program.keys
    found: list[Held] = []
    if budget.gpu_hours is not None:
        hours = {keys[index]: cost.gpu_hours for index, cost in costs.nodes.items()}
        found.append(_held("gpu_hours", budget.gpu_hours, spent.gpu_hours, hours, spent.unsealed_gpu_hours))
    if budget.usd is not None:
        usd = {keys[index]: cost.usd for index, cost in costs.nodes.items()}
        found.append(_held("usd", budget.usd, spent.usd, usd, spent.unsealed_usd))
    return found


def _held(
    name: str, limit: float, spent: float, costs: Mapping[str, Range], begun: Mapping[str, float]
) -> Held:
    left = {key: max(cost.likely - begun.get(key, 0.0), 0.0) for key, cost in costs.items()}
    return Held(name, limit, spent, sum(left.values()), sum(cost.high for cost in costs.values()))


def require(program: Program, costs: Costs, budget: Sequence[Held]) -> None:
    """Raise SpecError, with the place in the spec, where a budget is exceeded or cannot be held."""
    problems: list[Diagnostic] = []
    for held in budget:
        if held.over:
            hint = f"make less (`alignc plan --cost` tells the stages), or raise `budget.{held.name}`"
            place = _place(program, held.name)
            problems.append(Diagnostic("AC503", f"over budget: {held.words}", place, hint))
    if program.spec.budget.usd is not None:
        for name in costs.unpriced:
            hint = "state `usd_per_million_input` and `usd_per_million_output` (0 for a server of your own)"
            message = f"the budget cannot be held: nobody knows the price of {name}"
            problems.append(Diagnostic("AC503", message, _place(program, "usd"), hint))
    if problems:
        raise SpecError(problems, program.texts)


def _place(program: Program, name: str) -> Span:
    written = program.spec.budget_at
    return written.items[name].span if name in written.items else written.span
