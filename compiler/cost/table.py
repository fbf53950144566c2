"""Costs -> text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.cost.amounts import Cost, Costs, Range, total
from compiler.cost.words import dollars, duration, short, spread
from compiler.planning.plan import Plan
from runtime.plural import counted

if TYPE_CHECKING:
    from compiler.cost.budget import Held

HEADER = ("stage", "jobs", "rows", "tokens in", "out", "time each", "GPU-hours", "CPU-hours", "USD", "from")
LEFT = ("stage", "from")  # columns that are not numbers


# ---------------------------------------------------------------- text


def summary(plan: Plan, costs: Costs, budget: Sequence[Held]) -> list[str]:
    """The lines under a plan: what is likely to come, what nobody knows, how the budget stands."""
    lines: list[str] = []
    if costs.nodes:
        parts = [f"{spread(costs.gpu_hours)} GPU-hours"] if costs.gpu_hours.high else []
        parts += [f"{spread(costs.cpu_hours)} CPU-hours"]
        parts += [_usd(costs.usd)] if costs.usd.high else []
        lines.append(f"likely to cost {', '.join(parts)}")
    lines += [f"price unknown: {name}; add it to a price table (docs/cost.md)" for name in costs.unpriced]
    lines += [f"no estimate for {counted(n, 'node')}: {why}" for why, n in costs.unknown.items()]
    lines += [f"{node}: likely to take {time}, over its time limit" for node, time in _late(plan, costs)]
    lines += [f"{'OVER BUDGET' if held.over else 'budget'}: {held.words}" for held in budget]
    return lines


def _late(plan: Plan, costs: Costs) -> list[tuple[str, str]]:
    """The first node of each stage that is likely to run into its time limit."""
    found: dict[str, tuple[str, str]] = {}
    for index, cost in costs.nodes.items():
        node = plan.steps[index].node
        if cost.seconds.likely > 60 * node.resources.minutes:
            found.setdefault(node.stage, (node.id, duration(cost.seconds.likely)))
    return list(found.values())


def _usd(amount: Range) -> str:
    return f"{dollars(amount.likely)} ({dollars(amount.low)}-{dollars(amount.high)})"


def by_stage(plan: Plan, costs: Costs) -> str:
    """A table with a line for each stage that is still to be made."""
    stages: dict[str, list[Cost]] = {}
    for index, cost in costs.nodes.items():
        stages.setdefault(plan.steps[index].node.stage, []).append(cost)
    rows = [HEADER, *(_row(stage, some) for stage, some in stages.items())]
    columns = [c for c in zip(*rows, strict=True) if any(cell not in ("-", "") for cell in c[1:])]
    padded = [_padded(c) for c in columns]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*padded, strict=True))


def _padded(column: Sequence[str]) -> list[str]:
    width = max(map(len, column))
    return [c.ljust(width) if column[0] in LEFT else c.rjust(width) for c in column]


def _row(stage: str, costs: Sequence[Cost]) -> tuple[str, ...]:
    known = [c for c in costs if not c.unknown]
    basis = dict.fromkeys(b for c in known[:1] for b in c.basis) or dict.fromkeys(c.unknown for c in costs)
    each = total(c.seconds for c in known) / max(1, len(known))
    usd = total(c.usd for c in known)
    return (
        stage,
        str(len(costs)),
        *(_likely([getattr(c, name) for c in known]) for name in ("rows", "tokens_read", "tokens_written")),
        f"{duration(each.likely)} ({duration(each.low)}-{duration(each.high)})" if known else "-",
        _cell(total(c.gpu_hours for c in known)),
        _cell(total(c.cpu_hours for c in known)),
        "unknown" if any(c.unpriced for c in known) else _usd(usd) if usd.high else "-",
        "; ".join(basis),
    )


def _likely(amounts: Sequence[Range]) -> str:
    amount = total(amounts)
    return short(amount.likely) if amount.high else "-"


def _cell(amount: Range) -> str:
    return spread(amount) if amount.high else "-"


def in_words(cost: Cost) -> str:
    """What one node, or all of a stage, will cost."""
    if cost.unknown:
        return f"unknown: {cost.unknown}"
    parts = [f"{spread(cost.gpu_hours)} GPU-hours"] if cost.gpu_hours.high else []
    parts += [f"{spread(cost.cpu_hours)} CPU-hours"] if not parts else []
    parts += ["USD unknown"] if cost.unpriced else [_usd(cost.usd)] if cost.usd.high else []
    return ", ".join(parts)


def stage_words(plan: Plan, costs: Costs) -> dict[str, str]:
    """What each stage will cost."""
    stages: dict[str, list[Cost]] = {}
    for index, cost in costs.nodes.items():
        stages.setdefault(plan.steps[index].node.stage, []).append(cost)
    found: dict[str, str] = {}
    for stage, some in stages.items():
        known = [c for c in some if not c.unknown]
        sums: dict[str, Any] = {
            name: total(getattr(c, name) for c in known) for name in ("gpu_hours", "cpu_hours", "usd")
        }
        unpriced = next((c.unpriced for c in known if c.unpriced), "")
        found[stage] = (
            in_words(replace(some[0], **sums, unknown="", unpriced=unpriced)) if known else "unknown"
        )
    return found


# ---------------------------------------------------------------- JSON


def _three(amount: Range) -> list[float]:
    return [float(f"{x:.6g}") for x in (amount.low, amount.likely, amount.high)]


def node_json(cost: Cost) -> dict[str, Any]:
    """One node's cost; every amount is [low, likely, high]."""
    if cost.unknown:
        return {"unknown": cost.unknown}
    return {
        "rows": _three(cost.rows),
        "tokens_read": _three(cost.tokens_read),
        "tokens_written": _three(cost.tokens_written),
        "flops": _three(cost.flops),
        "seconds": _three(cost.seconds),
        "gpu_hours": _three(cost.gpu_hours),
        "cpu_hours": _three(cost.cpu_hours),
        "usd": None if cost.unpriced else _three(cost.usd),
        "basis": list(cost.basis),
    }


KEPT = ("unknown", "gpu_hours", "cpu_hours", "usd")


def kept(plan: Plan, costs: Costs) -> dict[str, dict[str, Any]]:
    """By key what is kept of each node's estimate, so that it can be held against what the job will cost."""
    told: dict[int, dict[str, Any]] = {}  # nodes of one shape share their cost
    for cost in costs.nodes.values():
        if id(cost) not in told:
            told[id(cost)] = {name: value for name, value in node_json(cost).items() if name in KEPT}
    return {plan.steps[index].key: told[id(cost)] for index, cost in costs.nodes.items()}


def add_json(plan: Plan, told: dict[str, Any], costs: Costs, budget: Sequence[Held]) -> None:
    """Put costs into a plan's JSON: `cost` of every node that is not reused, and of the whole."""
    by_id = {plan.steps[index].node.id: cost for index, cost in costs.nodes.items()}
    for node in told["nodes"]:
        if node["id"] in by_id:
            node["cost"] = node_json(by_id[node["id"]])
    told["cost"] = {
        "gpu_hours": _three(costs.gpu_hours),
        "cpu_hours": _three(costs.cpu_hours),
        "usd": _three(costs.usd),
        "unpriced": costs.unpriced,
        "unknown": [{"why": why, "nodes": n} for why, n in costs.unknown.items()],
        "budget": {
            h.name: {"limit": h.limit, "spent": h.spent, "likely": h.likely, "over": h.over} for h in budget
        },
    }
