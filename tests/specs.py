"""Specs of whole small experiments, for tests that run them."""

from __future__ import annotations

# No torch: programmatic teachers, critic and evaluator only; each job takes a fraction of a second.
LIGHT = """\
experiment: light
axes:
  seed: [0, 1]
llms:
  strong: {provider: simulated}
  weak: {provider: simulated, knows: [copy], error_rate: 0.1}
  judge: {provider: simulated, error_rate: 0.05}
sources:
  tasks: {kind: world, size: 200}
stages:
  prompts: {kind: prepare, source: tasks, split: {train: 50%, test: 50%}}
  right: {kind: demonstrate, prompts: prompts.test, teacher: strong}
  wrong: {kind: demonstrate, prompts: prompts.test, teacher: weak, seed: "${seed}"}
  score: {kind: evaluate, completions: wrong, reference: right, evaluator: judge}
  labels: {kind: label, critic: judge, a: right, b: wrong}
tables:
  main: {rows: {Weak: score}, columns: [win_rate, accuracy], over: [seed]}
"""

# Everything trains, and hardly anything: a minute on two cores.
TINY = """\
experiment: tiny
axes:
  seed: [0, 1]
models:
  fresh: {init: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, max_positions: 128}}
llms:
  weak: {provider: simulated, knows: [copy]}
  judge: {provider: simulated, error_rate: 0.05}
sources:
  tasks: {kind: world, size: 120}
  documents: {kind: world, what: documents, size: 60}
stages:
  corpus: {kind: prepare, source: documents}
  prompts: {kind: prepare, source: tasks, split: {sft: 30%, aif: 30%, validation: 20%, test: 20%}}
  base: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 1, learning_rate: 1e-3, max_length: 128,
         max_prompt_length: 64}
  sft_answers: {kind: demonstrate, prompts: prompts.sft, teacher: weak}
  aif_answers: {kind: demonstrate, prompts: prompts.aif, teacher: weak}
  reference: {kind: demonstrate, prompts: prompts.test, teacher: weak}
  tune: {kind: sft, model: base, data: sft_answers, chat: human_assistant, epochs: 2, checkpoint_every: 1,
         seed: "${seed}", max_length: 128, max_prompt_length: 64, sweep: {learning_rate: [1e-3, 1e-2]}}
  score: {kind: evaluate, model: tune, prompts: prompts.validation, max_new_tokens: 8}
  best: {kind: select, from: tune, by: score.accuracy}
  samples: {kind: sample, model: best, prompts: prompts.aif, max_new_tokens: 8, seed: "${seed}"}
  labels: {kind: label, critic: judge, a: aif_answers, b: samples}
  rlaif: {kind: dpo, model: best, data: labels, epochs: 1, learning_rate: 1e-4, max_length: 128,
          max_prompt_length: 64}
  sft_test: {kind: evaluate, model: best, prompts: prompts.test, reference: reference, evaluator: judge,
             max_new_tokens: 8}
  rlaif_test: {kind: evaluate, model: rlaif, prompts: prompts.test, reference: reference, evaluator: judge,
               max_new_tokens: 8}
tables:
  main: {rows: {SFT: sft_test, RLAIF: rlaif_test}, columns: [win_rate, accuracy], over: [seed],
         compare: {RLAIF: SFT}}
"""

# A choice between teachers, and work after it; no torch.
PICK = """\
experiment: pick
axes: {seed: [0, 1]}
llms:
  strong: {provider: simulated}
  fair: {provider: simulated, knows: [copy], error_rate: 0.3}
  poor: {provider: simulated, knows: [copy], error_rate: 0.9}
  bad: {provider: simulated, knows: [copy], error_rate: 0.95}
  worst: {provider: simulated, knows: [copy], error_rate: 0.99}
  good: {provider: simulated, knows: [copy, reverse], error_rate: 0.1}
  judge: {provider: simulated, error_rate: 0.05}
sources:
  tasks: {kind: world, size: 200}
stages:
  prompts: {kind: prepare, source: tasks, split: {train: 75%, validation: 25%}}
  right: {kind: demonstrate, prompts: prompts.validation, teacher: strong}
  guess: {kind: demonstrate, prompts: prompts.validation, seed: "${seed}", sweep: {teacher: [poor, fair]}}
  score: {kind: evaluate, completions: guess}
  best: {kind: select, from: guess, by: score.accuracy}
  labels: {kind: label, critic: judge, a: right, b: best}
  again: {kind: prepare, source: best, limit: 20}
  more: {kind: demonstrate, prompts: again, teacher: strong}
  chosen: {kind: evaluate, completions: best, reference: right, evaluator: judge}
tables:
  main: {rows: {Chosen: chosen}, columns: [win_rate], over: [seed]}
"""
