"""Specs that several tests compile, and a way to compile text."""

from __future__ import annotations

from pathlib import Path

from compiler.program import Program, compile_spec

# A small study with everything in it: sweep, epochs, select, seeds, a table with a comparison.
STUDY = """\
experiment: study
axes:
  seed: [0, 1]
models:
  tiny: {init: {hidden_size: 64}}
llms:
  weak: {provider: simulated, knows: [copy]}
  critic: {provider: simulated, error_rate: 0.05}
sources:
  tasks: {kind: world, size: 400}
  documents: {kind: world, what: documents, size: 500}
stages:
  corpus: {kind: prepare, source: documents}
  prompts: {kind: prepare, source: tasks, split: {sft: 10%, aif: 70%, validation: 10%, test: 10%}}
  base: {kind: sft, model: tiny, data: corpus, chat: plain, epochs: 1, learning_rate: 1e-3}
  answers: {kind: demonstrate, prompts: prompts.sft, teacher: weak}
  others: {kind: demonstrate, prompts: prompts.aif, teacher: weak}
  reference: {kind: demonstrate, prompts: prompts.test, teacher: weak}
  tune:
    kind: sft
    model: base
    data: answers
    chat: human_assistant
    epochs: 6
    checkpoint_every: 2
    seed: ${seed}
    sweep: {learning_rate: [1e-3, 5e-4]}
  score: {kind: evaluate, model: tune, prompts: prompts.validation, temperature: 0.7, max_new_tokens: 16}
  best: {kind: select, from: tune, by: score.accuracy}
  samples: {kind: sample, model: best, prompts: prompts.aif, max_new_tokens: 16}
  labels: {kind: label, critic: critic, a: others, b: samples}
  rlaif: {kind: dpo, model: best, data: labels, epochs: 3, learning_rate: 1e-4}
  sft_test: {kind: evaluate, model: best, prompts: prompts.test, reference: reference, evaluator: critic}
  rlaif_test: {kind: evaluate, model: rlaif, prompts: prompts.test, reference: reference, evaluator: critic}
tables:
  main:
    caption: Does feedback help?
    rows: {SFT: sft_test, SFT + feedback: rlaif_test}
    columns: [win_rate, accuracy]
    over: [seed]
    compare: {SFT + feedback: SFT}
"""

# The part that most small tests start from.
HEAD = """\
experiment: small
models: {tiny: {init: {hidden_size: 64}, chat: plain}}
llms: {weak: {provider: simulated}}
sources: {tasks: {kind: world}}
"""


def compile_text(folder: Path, text: str, *overrides: str, name: str = "spec.yaml") -> Program:
    """Compile a spec given as text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return compile_spec(str(path), overrides)


def node_ids(program: Program) -> list[str]:
    return [node.id for node in program.graph.nodes]
