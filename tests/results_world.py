"""A small study made by hand for tests of the results: sealed artifacts with known numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.files import digest_text, write_json, write_rows
from runtime.statistics.estimates import win_rate
from runtime.store import Store

ENVIRONMENT = {
    "alignc": {"version": "0.1.0", "commit": "c0ffee" + "0" * 34, "dirty": False},
    "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
    "python": "3.11.9",
    "platform": "Linux-test",
    "host": "node7",
    "slurm_job": "4711",
}
SPEC = {"path": "specs/study.yaml", "commit": "feed" + "0" * 36, "dirty": False}
STARTED = 1_760_000_000.0  # 2025-10-09 08:53 UTC


def key_of(node: str) -> str:
    return digest_text(node)


@dataclass
class World:
    """Nodes of an experiment, sealed or not, and the tables over them."""

    store: Store
    experiment: str = "study"
    nodes: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)

    def node(self, id: str, kind: str, needs: Sequence[str] = (), line: int = 1, **axes: Any) -> str:
        stage = id.partition("[")[0]
        self.nodes.append(
            {
                "id": id, "stage": stage, "kind": kind, "key": key_of(id), "axes": axes,
                "needs": list(needs), "place": f"specs/study.yaml:{line}",
            }
        )  # fmt: skip
        return id

    def _node(self, id: str) -> dict[str, Any]:
        return next(node for node in self.nodes if node["id"] == id)

    def seal(
        self, id: str, *, wall_s: float = 90.0, summary: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None, gpus: int = 0, estimated: Mapping[str, Any] | None = None,
        experiment: str | None = None, **files: Any,
    ) -> None:  # fmt: skip
        """Seal a node's artifact. A file given as a list becomes JSON lines, one as a dict JSON.

        estimated: what it was likely to cost. experiment: another one that has made it.
        """
        node = self._node(id)
        out = self.store.work(node["key"]) / "out"
        out.mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, list):
                write_rows(out / f"{name}.jsonl", content)
            else:
                write_json(out / f"{name}.json", content)
        manifest = {
            "kind": node["kind"], "key": node["key"], "id": id, "config": {}, "recipe": {},
            "experiment": experiment or self.experiment,
            "inputs": inputs or {}, "spec": SPEC, "environment": ENVIRONMENT, "summary": summary or {},
            "resources": {
                "asked": {"gpus": gpus, "cpus": 2},
                "used": {"started": STARTED, "ended": STARTED + wall_s, "wall_s": wall_s},
                **({"estimated": estimated} if estimated else {}),
            },
        }  # fmt: skip
        self.store.seal(node["kind"], node["key"], out, manifest)
        self.store.discard_work(node["key"])

    def seal_scores(self, id: str, wins: Sequence[float | None], **told: Any) -> None:
        """Seal an evaluation with these scores, prompt by prompt."""
        items: list[dict[str, Any]] = [
            {"id": f"p{i}", "preference": None if w is None else w + 1, "win": w, "correct": None}
            for i, w in enumerate(wins)
        ]
        for i, item in enumerate(items):
            item["length"] = 40 + i
        rate = win_rate([item["preference"] for item in items])
        metrics = {
            "win_rate": rate.win_rate, "standard_error": rate.standard_error, "n_wins": rate.n_wins,
            "n_wins_base": rate.n_wins_base, "n_draws": rate.n_draws, "n_total": rate.n_total,
            "discrete_win_rate": rate.discrete_win_rate,
            "avg_length": int(sum(i["length"] for i in items) / len(items)),
        }  # fmt: skip
        self.seal(id, metrics=metrics, items=items, **told)

    def fail(self, id: str, outcome: str, message: str) -> None:
        node = self._node(id)
        record = {"id": id, "key": node["key"], "outcome": outcome, "message": message, "traceback": ""}
        write_json(self.store.failure(node["key"]), record)

    def member(self, id: str, field: str = "win_rate") -> dict[str, Any]:
        node = self._node(id)
        return {
            "node": id, "axes": node["axes"], "kind": node["kind"], "key": node["key"], "field": field,
            "place": node["place"],
        }  # fmt: skip

    def cell(self, *ids: str, field: str = "win_rate") -> dict[str, Any]:
        return {"members": [self.member(id, field) for id in ids], "line": "specs/study.yaml:41"}

    def description(self) -> dict[str, Any]:
        """As it comes from JSON."""
        told = {
            "schema": "alignc.tables/1", "experiment": self.experiment, "spec": SPEC, "tables": self.tables,
            "claims": self.claims, "nodes": self.nodes,
        }  # fmt: skip
        return json.loads(json.dumps(told))


def table(
    name: str, columns: Mapping[str, str], rows: Mapping[str, Sequence[Any]], **more: Any
) -> dict[str, Any]:
    """A table of a description: columns by label with their metric, rows by label with their cells."""
    return {
        "name": name, "caption": "", "row_header": "", "over": [], "comparisons": [], "published": [],
        "columns": [{"label": label, "metric": metric} for label, metric in columns.items()],
        "rows": [{"label": label, "cells": list(cells)} for label, cells in rows.items()],
        **more,
    }  # fmt: skip


# ---------------------------------------------------------------- a whole study

BASES = {"deepseek-7b": 0.44, "yi-6b": 0.52, "llama-7b": 0.36, "mistral-7b": 0.58}
COLUMNS = {"SFT 10%": ("weak", 0.0), "SFT 100%": ("full", 0.05), "RLAIF": ("rlaif", 0.12)}
TRAINERS = {"weak": "sft", "full": "sft", "rlaif": "dpo"}
PROMPTS = 200
SPEED = {
    "device": "NVIDIA H200", "processes": 4, "useful_tokens_per_s": 123456.7, "padding_share": 0.0131,
    "mfu": 0.4213, "peak_gpu_bytes": 71 * 2**30, "seconds": {"data": 3.2, "compute": 812.3, "save": 44.1},
}  # fmt: skip


def _training(stage: str, rng: random.Random) -> list[dict[str, float]]:
    first = 0.693 if stage == "rlaif" else 2.4
    rows = [
        {"step": s, "epoch": s / 100, "lr": 5e-7, "grad_norm": 1.0,
         "loss": first * (0.55 + 0.45 * 0.985**s) + (rng.gauss(0, 0.03) if s > 1 else 0.0)}
        for s in range(1, 301)
    ]  # fmt: skip
    if stage == "rlaif":
        for row in rows:
            row |= {"margin": first - row["loss"], "accuracy": 0.5 + 0.4 * (first - row["loss"])}
    return rows


def _rows(base: str, stage: str, seed: int) -> list[dict[str, Any]]:
    text = "The sorted letters are: a b c d e. " * (1 + (len(stage) + seed) % 3)
    return [
        {"id": f"p{i}", "prompt": f"Sort the letters of word number {i} & say <why>.", "answer": "abcde",
         "completion": f"{text}({base}, {stage})"}
        for i in range(PROMPTS)
    ]  # fmt: skip


def _scored(world: World, base: str, stage: str, seed: int, rate: float, needs: Sequence[str]) -> str:
    """Training, sampling and evaluation of one run; returns the evaluation's id."""
    rng = random.Random(f"{base} {stage} {seed}")
    where = f"[base={base},seed={seed}]"
    axes = {"base": base, "seed": seed}
    trained = world.node(f"{stage}{where}", TRAINERS[stage], needs, 20, **axes)
    world.seal(
        trained, wall_s=3600 * rng.uniform(0.5, 2), gpus=4, training=_training(stage, rng), summary=SPEED,
        estimated=_estimated(base, gpu_hours=[2.5, 4.5, 7]),
    )  # fmt: skip
    sampled = world.node(f"{stage}_test~samples{where}", "sample", [trained], 30, **axes)
    estimated = _estimated(base, gpu_hours=[0.05, 0.08, 0.2])
    world.seal(sampled, wall_s=312.0, gpus=1, data=_rows(base, stage, seed), estimated=estimated)
    scored = world.node(f"{stage}_test{where}", "evaluate", [sampled], 31, **axes)
    level = rate + rng.gauss(0, 0.01)
    # Part of each outcome is the prompt's own, so that methods are paired and seeds agree somewhat.
    hardness = [random.Random(f"{base} {i}").random() for i in range(PROMPTS)]
    wins = [
        0.5 if rng.random() < 0.02 else float(0.6 * hard + 0.4 * rng.random() < level) for hard in hardness
    ]
    verdicts = [
        {
            "id": f"p{i}", "preference": w + 1, "reason": "tie" if w == 0.5 else None, "shown": ["ab"],
            "replies": ["Output (b)" if w else "Output (a)"], "judge": "gpt-4-0314",
        }
        for i, w in enumerate(wins)
    ]  # fmt: skip
    completions = {"type": "Completions", "kind": "sample", "key": key_of(sampled), "path": "data.jsonl"}
    world.seal_scores(
        scored, wins, verdicts=verdicts, inputs={"completions": [completions]}, wall_s=21.5,
        summary={"dollars": 1.25, "requests": PROMPTS, "input_tokens": 9000, "output_tokens": 1200},
        estimated=_estimated(base, cpu_hours=[0.01, 0.02, 0.1], usd=[0.8, 1.2, 1.6]),
    )  # fmt: skip
    return scored


def _estimated(base: str, **amounts: list[float]) -> dict[str, Any] | None:
    """What was kept of an estimate; nothing for one base, which was made before estimates were kept."""
    nothing = [0.0, 0.0, 0.0]
    told = {"gpu_hours": nothing, "cpu_hours": nothing, "usd": nothing, **amounts}
    return None if base == "deepseek-7b" else told


def _run(world: World, base: str, stage: str, seed: int, rate: float, prompts: str) -> str:
    """One run of the study, or the reason why there is none; returns the evaluation's id."""
    where, axes = f"[base={base},seed={seed}]", {"base": base, "seed": seed}
    if (base, stage, seed) == ("llama-7b", "rlaif", 2):
        trained = world.node(f"rlaif{where}", "dpo", [prompts], 20, **axes)
        world.fail(trained, "failed", "OutOfMemoryError: CUDA out of memory\nmore")
        return world.node(f"rlaif_test{where}", "evaluate", [trained], 31, **axes)
    if (base, stage) == ("deepseek-7b", "rlaif"):
        return world.node(f"rlaif_test{where}", "evaluate", [prompts], 31, **axes)
    return _scored(world, base, stage, seed, rate, [prompts])


def study(store: Store, seeds: int = 3) -> World:
    """Four bases, three methods, three seeds; one run failed, one base's feedback is blocked by it."""
    world = World(store, "fig3-small")
    prompts = world.node("prompts", "prepare", line=12)
    world.seal(prompts, wall_s=4.2, experiment="another")
    cells: dict[str, list[Any]] = {base: [] for base in BASES}
    for base, rate in BASES.items():
        for label, (stage, gain) in COLUMNS.items():
            ids = [_run(world, base, stage, seed, rate + gain, prompts) for seed in range(seeds)]
            cells[base].append((label, ids))
    rows = {base: [world.cell(*ids) for _, ids in made] for base, made in cells.items()}
    members = {
        base: {label: world.cell(*ids)["members"] for label, ids in made} for base, made in cells.items()
    }
    published = [("deepseek-7b", 57.5, 1.75), ("yi-6b", 63.0, 1.7), ("llama-7b", 47.625, 1.77)]
    world.tables.append(
        table(
            "fig3", dict.fromkeys(COLUMNS, "win_rate"), rows, over=["seed"], row_header="base",
            caption="Win rate of AI feedback & SFT_10%",
            comparisons=[
                {"label": f"RLAIF - {other}", "row": base, "column": "", "field": "win_rate",
                 "a": members[base]["RLAIF"], "b": members[base][other]}
                for other in ("SFT 100%",) for base in BASES
            ],
            published=[
                {"row": row, "column": "RLAIF", "value": value, "standard_error": error, "source": "fig3.csv"}
                for row, value, error in published
            ],
        )
    )  # fmt: skip
    world.tables.append(
        table(
            "methods", {"win rate": "win_rate", "length": "avg_length"},
            {
                label: [
                    world.cell(f"{stage}_test[base=yi-6b,seed=0]"),
                    world.cell(f"{stage}_test[base=yi-6b,seed=0]", field="avg_length"),
                ]
                for label, (stage, _) in COLUMNS.items()
            },
            caption="Methods on Yi-6B",
        )
    )  # fmt: skip
    return world
