"""specs/paper, specs/paper-small: a study compiles, and takes the work that its matrix of results says."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from compiler.program import Program, compile_spec
from tests.commands import alignc

SPECS = Path(__file__).parent.parent / "specs"
PAPER = SPECS / "paper"
FIGURES = ("fig1", "fig2", "fig3", "fig4", "fig5", "fig7", "table1", "both_sampled")

SIX = ("deepseek-7b", "yi-6b", "llama-7b", "llama2-13b", "mistral-7b", "mixtral-8x7b")
LLAMA, MISTRAL = "llama-7b", "mistral-7b"

# The paper's matrix. SFT models that a figure chooses: (bases, teacher, shares of the prompts, judges).
SFT = {
    "fig1": [((MISTRAL,), "gpt-3.5", (0.1, 1), ("gpt-4",)), ((MISTRAL,), "gpt-4", (0.1, 1), ("gpt-4",))],
    "fig2": [((LLAMA,), "gpt-3.5", (0.05, 0.1, 0.25, 0.5, 1), ("gpt-4", "claude"))],
    "fig3": [(SIX, "gpt-3.5", (0.1, 1), ("gpt-4",)), (SIX, "gpt-4", (1,), ("gpt-4",))],
    "fig4": [
        ((LLAMA, MISTRAL), "gpt-3.5", (0.1, 1), ("claude",)),
        ((LLAMA, MISTRAL), "claude", (1,), ("claude",)),
    ],
    "fig5": [((LLAMA, "yi-6b", MISTRAL), "gpt-4", (0.1, 1), ("gpt-4",))],
    "fig7": [((LLAMA,), "claude", (0.1, 1), ("claude",))],
    "table1": [((LLAMA, MISTRAL), "gpt-3.5", (0.1,), ("gpt-4",))],
    "both_sampled": [((LLAMA,), "gpt-3.5", (0.1,), ("gpt-4",))],
}
# Its DPO models: (base, teacher, critic, whose samples the preferences are between).
DPO = {
    "fig1": [(MISTRAL, "gpt-3.5", "gpt-4", MISTRAL), (MISTRAL, "gpt-4", "gpt-4", MISTRAL)],
    "fig2": [],
    "fig3": [(base, "gpt-3.5", "gpt-4", base) for base in SIX],
    "fig4": [(base, "gpt-3.5", "claude", base) for base in (LLAMA, MISTRAL)],
    "fig5": [(base, "gpt-4", "gpt-4", base) for base in (LLAMA, "yi-6b", MISTRAL)],
    "fig7": [(LLAMA, "claude", "claude", LLAMA)],
    "table1": [(a, "gpt-3.5", "gpt-4", b) for a in (LLAMA, MISTRAL) for b in (LLAMA, MISTRAL)],
    "both_sampled": [(LLAMA, "gpt-3.5", "gpt-4", LLAMA), (LLAMA, "gpt-3.5", "gpt-4", "two of llama-7b")],
}
UNTRAINED = {"fig2": [(LLAMA, "gpt-4"), (LLAMA, "claude")]}

CANDIDATES = 3 * 3  # of an SFT model: learning rates times checkpoints
EPOCHS = 3  # of DPO, each of them a candidate


def derived(*figures: str) -> dict[str, int]:
    """Distinct jobs of these figures by kind, from the matrix alone."""
    chosen = {
        cell
        for figure in figures
        for bases, teacher, shares, judges in SFT[figure]
        for cell in product(bases, [teacher], shares, judges)
    }
    trained = {(base, teacher, share) for base, teacher, share, _ in chosen}
    feedback = {cell for f in figures for cell in DPO[f]}
    untrained = {cell for f in figures for cell in UNTRAINED.get(f, [])}
    preferences = {(teacher, critic, sampler) for _, teacher, critic, sampler in feedback}
    tested = len(chosen) + len(feedback)
    drawn = len(preferences)  # one set of samples for each set of preferences; two samples: one more
    return {
        "sft": CANDIDATES * len(trained),
        "dpo": EPOCHS * len(feedback),
        "label": len(preferences),
        "select": tested,
        "sample": CANDIDATES * len(trained)
        + EPOCHS * len(feedback)
        + tested
        + drawn
        + len({base for base, _ in untrained}),
        "evaluate": CANDIDATES * len(chosen) + EPOCHS * len(feedback) + tested + len(untrained),
    }


@cache
def compiled(name: str, *overrides: str) -> Program:
    return compile_spec(str(PAPER / f"{name}.yaml"), overrides)


def jobs(program: Program) -> Counter[str]:
    """Distinct jobs by kind."""
    nodes = zip(program.keys, program.graph.nodes, strict=True)
    return Counter(kind for _, kind in {(key, node.kind.name) for key, node in nodes})


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_takes_the_work_that_the_matrix_says(name: str) -> None:
    expected = {kind: number for kind, number in derived(name).items() if number}
    found = jobs(compiled(name))
    assert {kind: found[kind] for kind in found if kind not in ("prepare", "demonstrate")} == expected


def test_the_whole_paper_shares_the_work_of_its_figures() -> None:
    whole = compiled("all")
    # 27 SFT models: six bases on 10 % and on all of GPT-3.5 and on all of GPT-4, three on 10 % of GPT-4, two
    # on all and one on 10 % of Claude, and three more shares of Figure 2. 15 DPO models: 6 + 2 + 3 + 1, two
    # swaps and the ablation. 34 choices of SFT models: 24 by GPT-4, 10 by Claude.
    expected = {"sft": 243, "dpo": 45, "label": 13, "select": 49, "sample": 351, "evaluate": 402}
    assert derived(*FIGURES) == expected
    assert jobs(whole) == {**expected, "prepare": 9, "demonstrate": 2}
    alone = sum((Counter(derived(name)) for name in FIGURES), Counter[str]())
    nodes = Counter(node.kind.name for node in whole.graph.nodes)
    assert {kind: nodes[kind] for kind in alone} == alone


# figure -> what the table shows and how many published values stand beside it
TABLES = {
    "fig1": {"main": 0},
    "fig2": {"main": 20, "untrained": 2},
    "fig3": {"main": 24},
    "fig4": {"main": 8},
    "fig5": {"main": 9},
    "fig7": {"main": 3},
    "table1": {"main": 4},
    "both_sampled": {"main": 0},
}


@pytest.mark.parametrize("name", TABLES)
def test_published_values_and_paired_differences_stand_in_the_tables(name: str) -> None:
    tables = compiled(name).tables
    assert {table.name: len(table.published) for table in tables} == TABLES[name]
    assert all(cell.members for table in tables for row in table.rows for cell in row.cells)
    assert all(table.comparisons for table in tables if table.name == "main")


def test_as_released_chooses_on_the_800_prompts_that_it_tests_on() -> None:
    ours, released = compiled("all"), compiled("as_released")
    assert {n.config.protocol for n in ours.graph.nodes if n.kind.name == "select"} == {"validation"}  # type: ignore[attr-defined]
    assert {n.config.protocol for n in released.graph.nodes if n.kind.name == "select"} == {"test"}  # type: ignore[attr-defined]
    limits = {n.config.limit for n in released.graph.nodes if n.stage.endswith("exam")}  # type: ignore[attr-defined]
    assert limits == {800}
    assert jobs(released) == jobs(ours)
    assert compiled("fig3", "axes.variant=[as_released]").keys


# Stages of Figure 3, and the hours that the paper states for LLaMA-7B on 8 A100
STATED = {"full": 9 * 1.0, "feedback": 2.75}


def test_estimates_agree_with_the_hours_that_the_paper_states(tmp_path: Path) -> None:
    profile = SPECS / "clusters" / "a100-80gb.yaml"
    plan = alignc(
        "plan", PAPER / "fig3.yaml", "--format", "json", "--cluster", profile, cwd=tmp_path, errors=False
    )
    hours = Counter[str]()
    for node in json.loads(plan)["nodes"]:
        if node["axes"].get("base") == LLAMA and node["axes"].get("learning_rate", 1e-6) == 1e-6:
            hours[node["stage"]] += node["cost"]["gpu_hours"][1] / 8
    assert {stage: hours[stage] for stage in STATED} == pytest.approx(STATED, rel=0.15)


# ---------------------------------------------------------------- in the small world

# Bases, teachers and judges that stand for the paper's.
STANDS_FOR = {
    "m1": LLAMA,
    "s3": "yi-6b",
    "m2": "deepseek-7b",
    "m3": MISTRAL,
    "l1": "llama2-13b",
    "l3": "mixtral-8x7b",
}


@cache
def small(name: str) -> Program:
    return compile_spec(str(SPECS / "paper-small" / f"{name}.yaml"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_small_figure_shows_what_the_paper_shows(name: str) -> None:
    for ours, theirs in zip(small(name).tables, compiled(name).tables, strict=True):
        labels = sorted(", ".join(STANDS_FOR.get(p, p) for p in r.label.split(", ")) for r in ours.rows)
        if name not in ("fig1", "fig2"):  # whose rows are no bases
            assert labels == sorted(row.label for row in theirs.rows)
        assert len(ours.rows) == len(theirs.rows)
        ours_beside = sorted(p.value for p in ours.published)
        assert ours_beside == sorted(p.value for p in theirs.published)
        assert ours.over and (ours.comparisons or ours.name == "untrained")


def test_the_small_study_makes_the_models_of_the_paper() -> None:
    # 2 seeds; 2 learning rates times 2 checkpoints of 27 SFT models, beside 6 pretrained bases; 2 epochs of
    # 15 DPO models; the sets of labels and the choices of the paper, for each seed.
    found = jobs(small("all"))
    assert (found["sft"], found["dpo"]) == (2 * 4 * 27 + 6, 2 * 2 * 15)
    assert (found["label"], found["select"]) == (2 * 13, 2 * 49)


def test_a_small_figure_runs_to_its_table(tmp_path: Path) -> None:
    store, spec = tmp_path / "store", SPECS / "paper-small" / "tiny.yaml"
    alignc("run", spec, "--store", store, cwd=tmp_path, timeout=600)
    shown = alignc("results", spec, "--store", store, "--out", tmp_path / "tables", cwd=tmp_path)
    table = (tmp_path / "tables" / "main.md").read_text()
    ours = r"[\d.]+ ± [\d.]+"
    row = rf"\| m1 \| {ours} \| 61.0 ± 1.7 \| {ours} \| 61.1 ± 1.7 \| {ours} \| 64.7 ± 1.7 \|"
    assert re.search(row, table.replace("*", "")), table
    assert "AI feedback and SFT 100 %" in shown
