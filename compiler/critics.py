"""What `alignc critics` is asked, found out and said: of critics in specs and in files of annotations."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from compiler.output.write import Sealed, open_node
from compiler.program import Program
from runtime.interchange.alpaca_eval import Annotation, read_annotations
from runtime.judging import coin, read_by_id, read_completions
from runtime.statistics.critics import Agreement, Critic, Figures, Share, Verdict, agree, figures
from runtime.statistics.estimates import Estimate, win
from runtime.store import Store

KINDS = {"label": "critic", "evaluate": "evaluator"}  # stage kinds that judge -> the input that says who
HUMANS = "humans"


@dataclass(frozen=True, slots=True)
class Named:
    """A file of annotations, whose they are, and the field that says which answer is better."""

    path: Path
    name: str = ""
    field: str = "preference"


@dataclass(frozen=True, slots=True)
class Report:
    """Every critic's figures, and every two of them on the pairs that both judged."""

    critics: tuple[Figures, ...]
    agreements: tuple[Agreement, ...]


def named(text: str) -> Named:
    """Reads `[NAME=]FILE[:FIELD]`. Raises UsageError where there is no such file."""
    name, _, rest = text.rpartition("=")
    path, _, column = rest.rpartition(":")
    for found in (Named(Path(text)), Named(Path(rest), name), Named(Path(path), name or column, column)):
        if found.path.is_file():
            return found
    raise UsageError(f"there is no file {text}: name a spec, or annotations as FILE, NAME=FILE or FILE:FIELD")


# ---------------------------------------------------------------- reading


@dataclass(slots=True)
class Bench:
    """Gathers verdicts by critic. A pair's second answer is that of whoever is met first."""

    _verdicts: dict[str, list[Verdict]] = field(default_factory=lambda: defaultdict(list))
    _usd: dict[str, float | None] = field(default_factory=dict)
    _first: dict[str, str | None] = field(default_factory=dict)
    _asked: set[tuple[object, ...]] = field(default_factory=set)

    def report(self) -> Report:
        critics = [Critic(name, said, self._usd.get(name)) for name, said in self._verdicts.items()]
        pairs = (agree(a, b) for a, b in combinations(critics, 2))
        return Report(tuple(map(figures, critics)), tuple(found for found in pairs if found))

    def add_people(self, one: Named) -> None:
        """People's labels in a file; pairs without one are left out. Raises JobError."""
        for row in read_annotations(one.path, one.field):
            if row.preference is not None:
                self._add(HUMANS, row, None, unreadable=False)

    def add_file(self, one: Named, *, by_coin: bool) -> None:
        """A critic's annotations in a file; by_coin: shown in AlpacaEval's order. Raises JobError."""
        rows = read_annotations(one.path, one.field)
        for row in rows:
            switched = row.switched
            if switched is None and by_coin and row.instruction is not None:
                switched = coin(row.instruction, 0)
            failed = row.reason.startswith("failed")
            self._add(self._name(one, row), row, switched, unreadable=row.preference is None and not failed)
        prices = [row.price for row in rows if row.price is not None]
        if prices:
            self._pay(self._name(one, rows[0]), sum(prices))

    def _name(self, one: Named, row: Annotation) -> str:
        """A file that does not say whose annotations it has is a critic of its own."""
        return one.name or row.annotator or str(one.path)

    def add_node(self, one: Sealed) -> None:
        """The verdicts of a sealed job. Raises JobError."""
        path = one.folder / "verdicts.jsonl"
        first, second = one.input("a", "reference", "prompts"), one.input("b", "completions")
        if not path.is_file() or first is None or second is None:
            return
        critic = one.manifest["inputs"][KINDS[one.manifest["kind"]]][0]["name"]
        a, b = read_completions(first[1]), read_completions(second[1])
        for id_, row in read_by_id(path, "prompt").items():
            told = Annotation(id_, None, row["prompt"], a[id_]["completion"], b[id_]["completion"])
            for shown, preference, reply, again in _askings(row):
                if self._is_new(critic, row["template"], told, shown, again):
                    unreadable = preference is None and reply is not None
                    switched = {"ab": False, "ba": True}.get(shown)
                    self._add(critic, replace(told, preference=preference), switched, unreadable=unreadable)
        self._pay(critic, one.manifest["summary"].get("dollars"))

    def _is_new(self, critic: str, template: str, row: Annotation, shown: str, again: int) -> bool:
        """Whether no other job made the same request, which would have had the same reply."""
        texts = (row.baseline, row.answer) if shown == "ab" else (row.answer, row.baseline)
        asked = critic, template, row.instruction, *texts, again
        known = asked in self._asked
        self._asked.add(asked)
        return not known

    def _add(self, critic: str, row: Annotation, switched: bool | None, *, unreadable: bool) -> None:
        key, turned = self._pair(row)
        found, longer = win(row.preference), _longer(row)
        if turned:
            found = None if found is None else 1 - found
            switched = None if switched is None else not switched
            longer = -longer
        self._verdicts[critic].append(Verdict(key, found, switched, longer, unreadable))

    def _pair(self, row: Annotation) -> tuple[str, bool]:
        """A key of the same two answers to the same prompt, and whether they stand the other way round."""
        if row.baseline is None or row.answer is None:
            which = row.instruction if row.idx is None else f"row {row.idx}"
            return "\0".join([which or row.where, row.baseline_name, row.name]), False
        key = "\0".join([row.instruction or "", *sorted((row.baseline, row.answer))])
        return key, self._first.setdefault(key, row.baseline) != row.baseline

    def _pay(self, critic: str, usd: float | None) -> None:
        """Dollars that came on top; unknown ones make all of a critic's unknown."""
        before = self._usd.get(critic, 0.0)
        self._usd[critic] = None if before is None or usd is None else before + usd


def _longer(row: Annotation) -> int:
    a, b = len(row.baseline or ""), len(row.answer or "")
    return (b > a) - (b < a)


def _askings(row: Mapping[str, Any]) -> Iterator[tuple[str, float | None, str | None, int]]:
    """(order, preference, reply, how often before in this order) of each time that a judge was asked."""
    shown, replies, read = row["shown"], row["replies"], row.get("read")
    if read is None:  # sealed before each reply's preference was kept
        if row["reason"] == "contradiction":
            shown, replies = [""], [""]
        read = [row["preference"]] * len(shown)
    for i, (order, preference, reply) in enumerate(zip(shown, read, replies, strict=True)):
        yield order, preference, reply, shown[:i].count(order)


def judged(program: Program, store: Store, chosen: Iterable[int] | None) -> Iterator[Sealed]:
    """The sealed jobs of a program that judged. Raises UsageError where there is none."""
    nodes = program.graph.nodes
    indices = sorted(range(len(nodes)) if chosen is None else chosen)
    judges = [i for i in indices if KINDS.get(nodes[i].kind.name) in nodes[i].inputs]
    if not judges:
        kinds = " or ".join(f"`{kind}` with `{who}`" for kind, who in KINDS.items())
        raise UsageError(f"{program.spec.path}: no node asks a critic ({kinds})")
    made = [i for i in judges if store.locate(nodes[i].kind.name, program.keys[i]) is not None]
    for i in made or judges[:1]:  # of the first one it is told that it is not made
        yield open_node(program, store, i)


# ---------------------------------------------------------------- text

SHARES: Mapping[str, tuple[str, Callable[[Figures], Share | None], str]] = {
    "decided": ("decided", lambda f: f.decided, "pairs"),
    "ties": ("ties", lambda f: f.ties, "pairs"),
    "unreadable": ("unreadable", lambda f: f.unreadable, "pairs"),
    "no_reply": ("no reply", lambda f: f.no_reply, "pairs"),
    "swap_agreement": ("orders agree", lambda f: f.swap_agreement, "pairs shown in both orders"),
    "consistency": ("same when asked again", lambda f: f.consistency, "pairs"),
    "longer": ("prefers the longer", lambda f: f.longer, "pairs that it decided"),
}


def to_text(report: Report) -> str:
    parts = ["\n".join(_said(one)) for one in report.critics]
    if report.agreements:
        parts.append("\n".join(["agreement, pair by pair", *map(_agreed, report.agreements)]))
    return "\n\n".join(parts)


def _said(one: Figures) -> Iterator[str]:
    yield f"{one.name}: {one.verdicts:,} verdicts on {one.pairs:,} pairs"
    bias = one.position_bias
    if bias is None:
        yield _line("position bias", "not known", "no pair's order is known, or all have the same")
    else:
        yield _line("position bias", f"{bias.mean:+.1f} points", f"{_range(bias)}; won by being shown first")
    for title, of, whole in SHARES.values():
        found = of(one)
        if found is not None:
            within = f"95 % interval {found.low:.1f} to {found.high:.1f}; {found.n:,} {whole}"
            yield _line(title, f"{found.value:.1f} %", within)
    if one.noise is not None:
        yield _line("noise", f"{one.noise:.1f} points", "deviation of a verdict when the same is asked again")
    if one.usd is not None:
        each = "" if one.usd_per_label is None else f"${one.usd_per_label:.4g} for each pair that it decided"
        yield _line("cost", f"${one.usd:,.4g}", each)


def _agreed(one: Agreement) -> str:
    share = one.agreement
    chance = "kappa not defined"
    if one.kappa is not None:
        chance = f"kappa {one.kappa.mean:.2f}, {_range(one.kappa, 2)}"
    within = f"95 % interval {share.low:.1f} to {share.high:.1f}"
    return f"  {one.a} and {one.b}: {share.value:.1f} % of {share.n:,} pairs, {within}; {chance}"


def _range(found: Estimate, digits: int = 1) -> str:
    if found.low is None or found.high is None:
        return "interval not known"
    return f"95 % interval {found.low:.{digits}f} to {found.high:.{digits}f}"


def _line(what: str, value: str, more: str) -> str:
    return f"  {what:<23}{value:<15}{more}".rstrip()


# ---------------------------------------------------------------- data


def to_json(report: Report) -> dict[str, Any]:
    return {
        "schema": "alignc.critics/1",
        "critics": [asdict(one) for one in report.critics],
        "agreements": [asdict(one) for one in report.agreements],
    }


def to_csv(report: Report) -> str:
    """One row for each critic; agreement and kappa with the others in columns of their own."""
    rows = {one.name: _row(one) for one in report.critics}
    for pair in report.agreements:
        for name, other in ((pair.a, pair.b), (pair.b, pair.a)):
            rows[name][f"agreement with {other}"] = pair.agreement.value
            rows[name][f"kappa with {other}"] = None if pair.kappa is None else pair.kappa.mean
    out = io.StringIO()
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    writer = csv.DictWriter(out, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows.values():
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
    return out.getvalue()


def _row(one: Figures) -> dict[str, Any]:
    told: dict[str, Any] = {"critic": one.name, "pairs": one.pairs, "verdicts": one.verdicts}
    shares = {name: of(one) for name, (_, of, _) in SHARES.items()}
    bias = one.position_bias
    for name, value, low, high in (
        ("position_bias", *((bias.mean, bias.low, bias.high) if bias else (None, None, None))),
        *((n, *((s.value, s.low, s.high) if s else (None, None, None))) for n, s in shares.items()),
    ):
        told |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return {**told, "noise": one.noise, "usd": one.usd, "usd_per_label": one.usd_per_label}
