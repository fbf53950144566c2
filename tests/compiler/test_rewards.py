"""Reward models as the compiler sees them: their types, their honesty, their costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.cost.estimate import estimate
from compiler.errors import SpecError
from tests.compiler.specs import HEAD, compile_text
from tests.compiler.test_cost import FACTS, PAPER, STATED, likely

STAGES = (
    HEAD
    + """\
stages:
  prompts: {kind: prepare, source: tasks, split: {train: 40%, validation: 30%, test: 30%}}
  one: {kind: demonstrate, prompts: prompts.train, teacher: weak}
  two: {kind: demonstrate, prompts: prompts.train, teacher: weak, seed: 1}
  pairs: {kind: label, critic: weak, a: one, b: two}
  left: {kind: demonstrate, prompts: prompts.validation, teacher: weak}
  right: {kind: demonstrate, prompts: prompts.validation, teacher: weak, seed: 1}
  held: {kind: label, critic: weak, a: left, b: right}
  rewards: {kind: reward, model: tiny, data: pairs, epochs: 2, checkpoint_every: 1, learning_rate: 1e-5}
  agreement: {kind: score, model: rewards, data: held}
  best: {kind: select, from: rewards, by: agreement.accuracy}
  draws: {kind: sample, model: tiny, prompts: prompts.test, sweep: {seed: [0, 1, 2]}}
  ranked: {kind: rank, from: draws, model: best}
  tuned: {kind: dpo, model: tiny, data: ranked, epochs: 1, learning_rate: 1e-6}
"""
)


def test_a_study_with_a_reward_model(tmp_path: Path) -> None:
    graph = compile_text(tmp_path, STAGES).graph
    (ranked,) = (node for node in graph.nodes if node.stage == "ranked")
    assert [binding.axes["draws/seed"] for binding in ranked.inputs["candidates"]] == [0, 1, 2]
    assert ranked.inputs["model"][0].port.type == "RewardModel"
    assert {name: port.type for name, port in ranked.outputs.items()} == {
        "": "Preferences",
        "best": "Completions",
    }


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (
            "x: {kind: sample, model: rewards, prompts: prompts.test}",
            "AC303",
            "`rewards` is RewardModel",
        ),
        ("x: {kind: score, model: tiny, data: held}", "AC303", "`tiny` is Model, but RewardModel is needed"),
        ("x: {kind: score, model: rewards, data: pairs}", "AC333", "trained on these prompts"),
        ("x: {kind: rank, from: one, model: best}", "AC209", "no sweep or checkpoint to choose from"),
        ("x: {kind: rank, a: one, b: left, model: best}", "AC330", "so they make no pair"),
        ("x: {kind: rank, a: one, model: best}", "AC103", "either `from`, or both `a` and `b`"),
        ("x: {kind: select, from: rewards, by: agreement.reward}", "AC302", "no output `reward`"),
    ],
)
def test_what_is_refused(tmp_path: Path, line: str, code: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_text(tmp_path, f"{STAGES}  {line}\n")
    (found,) = caught.value.diagnostics
    assert found.code == code and told in found.message


def test_what_it_costs(tmp_path: Path) -> None:
    text = f"""{PAPER.replace("ORDER", "coin")}\
  rewards: {{kind: reward, model: weak, data: labels, epochs: 2, learning_rate: 1e-6}}
  draws: {{kind: sample, model: weak, prompts: prompts.aif, max_new_tokens: 100, sweep: {{seed: [0, 1, 2]}}}}
  ranked: {{kind: rank, from: draws, model: rewards, max_length: 300}}
  paired: {{kind: rank, a: prompts.aif, b: {{stage: draws, at: {{seed: 0}}}}, model: rewards}}
  scores: {{kind: score, model: rewards, data: {{stage: draws, at: {{seed: 0}}}}}}
"""
    program = compile_text(tmp_path, text)
    costs = estimate(program, (), FACTS, STATED)
    once = 8_100 * 2 * 512  # chosen and rejected
    told = likely(program, costs, "rewards")
    assert (told["tokens_read"], told["flops"]) == (2 * once, 6 * 7e9 * 2 * once)
    told = likely(program, costs, "ranked")
    assert (told["tokens_read"], told["flops"]) == (9_000 * 3 * 300, 2 * 7e9 * 9_000 * 3 * 300)
    told = likely(program, costs, "paired")
    assert (told["rows"], told["tokens_read"]) == (9_000, 9_000 * 2 * 512)
    told = likely(program, costs, "scores")
    assert (told["tokens_read"], told["flops"]) == (9_000 * 512, 2 * 7e9 * 9_000 * 512)
