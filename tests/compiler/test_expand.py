"""Broadcasting: which nodes a spec stands for, and what each reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import SpecError
from compiler.program import Program
from tests.compiler.specs import HEAD, STUDY, compile_text, node_ids


def reads(program: Program, node: str) -> list[str]:
    ids = node_ids(program)
    return [ids[i] for i in program.graph.nodes[ids.index(node)].needs]


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        pytest.param("stages: {p: {kind: prepare, source: tasks}}", ["p"], id="no axis, one node"),
        pytest.param(
            "axes: {seed: [0, 1]}\nstages: {p: {kind: prepare, source: tasks, seed: '${seed}'}}",
            ["p[seed=0]", "p[seed=1]"],
            id="a mentioned axis",
        ),
        pytest.param(
            "axes: {seed: [0, 1], unused: [7]}\nstages: {p: {kind: prepare, source: tasks}}",
            ["p"],
            id="an axis that nobody mentions",
        ),
        pytest.param(
            """axes: {seed: [0, 1], other: [a, b]}
stages:
  p: {kind: prepare, source: tasks, seed: "${seed}"}
  d: {kind: demonstrate, prompts: p, teacher: weak, note: "${other}"}""",
            [
                "p[seed=0]",
                "p[seed=1]",
                "d[seed=0,other=a]",
                "d[seed=1,other=a]",
                "d[seed=0,other=b]",
                "d[seed=1,other=b]",
            ],
            id="inherited and mentioned axes multiply",
        ),
        pytest.param(
            """axes: {seed: [0, 1]}
stages:
  p: {kind: prepare, source: tasks, seed: "${seed}"}
  a: {kind: demonstrate, prompts: p, teacher: weak}
  b: {kind: demonstrate, prompts: p, teacher: weak, temperature: 0.5}
  l: {kind: label, critic: weak, a: a, b: b}""",
            [
                "p[seed=0]",
                "p[seed=1]",
                "a[seed=0]",
                "a[seed=1]",
                "b[seed=0]",
                "b[seed=1]",
                "l[seed=0]",
                "l[seed=1]",
            ],
            id="inputs with the same axis are joined, not multiplied",
        ),
        pytest.param(
            """axes: {base: {x: {t: 0.5}, y: {t: 1}}}
stages:
  p: {kind: prepare, source: tasks}
  s: {kind: sample, model: tiny, prompts: p, temperature: "${base.t}"}""",
            ["p", "s[base=x]", "s[base=y]"],
            id="records",
        ),
        pytest.param(
            """stages:
  p: {kind: prepare, source: tasks}
  s: {kind: sample, model: tiny, prompts: p, sweep: {temperature: [0.5, 1], top_p: [0.9]}}""",
            ["p", "s[temperature=0.5,top_p=0.9]", "s[temperature=1,top_p=0.9]"],
            id="sweep",
        ),
    ],
)
def test_nodes(tmp_path: Path, text: str, nodes: list[str]) -> None:
    assert node_ids(compile_text(tmp_path, HEAD + text)) == nodes


def test_every_checkpoint_is_a_node_and_what_reads_it_varies_with_it(tmp_path: Path) -> None:
    program = compile_text(tmp_path, STUDY)
    ids = node_ids(program)
    assert [i for i in ids if i.startswith("tune")] == [
        f"tune[seed={s},learning_rate={lr},epoch={e}]"
        for s in (0, 1)
        for lr in (0.001, 0.0005)
        for e in (2, 4, 6)
    ]
    assert sum(i.startswith("score[") for i in ids) == 2 * 2 * 3
    assert "score[seed=1,learning_rate=0.0005,epoch=4]" in ids


def test_select_reduces_what_stages_added_and_keeps_declared_axes(tmp_path: Path) -> None:
    program = compile_text(tmp_path, STUDY)
    ids = node_ids(program)
    assert [i for i in ids if i.startswith("best")] == ["best[seed=0]", "best[seed=1]"]
    best = program.graph.nodes[ids.index("best[seed=1]")]
    assert len(best.inputs["candidates"]) == len(best.inputs["by"]) == 6
    for candidate, score in zip(best.inputs["candidates"], best.inputs["by"], strict=True):
        assert dict(candidate.axes) == dict(score.axes)
        assert candidate.path == "model" and candidate.node is not None
        assert program.graph.nodes[candidate.node].axes == candidate.axes
        assert score.metric == "accuracy"


def test_select_over_a_declared_axis(tmp_path: Path) -> None:
    text = STUDY.replace("by: score.accuracy", "by: score.accuracy, over: [seed, learning_rate, epoch]")
    assert "best" in node_ids(compile_text(tmp_path, text))


def test_ragged_checkpoints(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
axes: {base: {x: {epochs: 2, every: 1}, y: {epochs: 9, every: 3}}}
stages:
  p: {kind: prepare, source: tasks, split: {train: 90%, validation: 10%}}
  d: {kind: demonstrate, prompts: p.train, teacher: weak}
  t: {kind: sft, model: tiny, data: d, learning_rate: 1,
      epochs: "${base.epochs}", checkpoint_every: "${base.every}"}
  s: {kind: sample, model: t, prompts: p.validation}
"""
    )
    found = [i for i in node_ids(compile_text(tmp_path, text)) if i.startswith("s[")]
    assert found == [f"s[base=x,epoch={e}]" for e in (1, 2)] + [f"s[base=y,epoch={e}]" for e in (3, 6, 9)]


AT = (
    HEAD
    + """
axes: {base: [x, y], sampler: [x, y]}
stages:
  p: {kind: prepare, source: tasks, split: {aif: 90%, test: 10%}}
  m: {kind: sample, model: tiny, prompts: p.aif, note: "${base}"}
  n: {kind: sample, model: tiny, prompts: p.aif, temperature: 0.5}
  l: {kind: label, critic: weak, a: n, b: m}
"""
)


def test_at_reads_a_stage_along_another_axis(tmp_path: Path) -> None:
    text = (
        AT
        + "  r: {kind: dpo, model: tiny, data: {stage: l, at: {base: '${sampler}'}}, epochs: 1, "
        + "learning_rate: 1, note: '${base}'}"
    )
    program = compile_text(tmp_path, text)
    assert [i for i in node_ids(program) if i[0] == "r"] == [
        "r[base=x,sampler=x]",
        "r[base=x,sampler=y]",
        "r[base=y,sampler=x]",
        "r[base=y,sampler=y]",
    ]
    assert reads(program, "r[base=x,sampler=y]") == ["l[base=y]"]


def test_at_a_constant(tmp_path: Path) -> None:
    text = AT + "  r: {kind: dpo, model: tiny, data: {stage: l, at: {base: y}}, epochs: 1, learning_rate: 1}"
    assert reads(compile_text(tmp_path, text), "r") == ["l[base=y]"]


def test_evaluating_a_model_samples_in_a_stage_of_its_own(tmp_path: Path) -> None:
    program = compile_text(tmp_path, STUDY)
    ids = node_ids(program)
    sampling = program.graph.nodes[ids.index("sft_test~samples[seed=0]")]
    assert sampling.kind.name == "sample"
    assert reads(program, "sft_test[seed=0]") == ["sft_test~samples[seed=0]", "prompts", "reference"]


def test_order_of_stages_in_the_file_does_not_matter(tmp_path: Path) -> None:
    head, _, rest = STUDY.partition("stages:\n")
    stages, _, tables = rest.partition("tables:\n")
    entries: list[str] = []
    for line in stages.splitlines(keepends=True):
        if line.startswith("   "):
            entries[-1] += line
        else:
            entries.append(line)
    shuffled = head + "stages:\n" + "".join(reversed(entries)) + "tables:\n" + tables
    one, other = compile_text(tmp_path, STUDY), compile_text(tmp_path, shuffled)
    assert dict(zip(node_ids(one), one.keys, strict=True)) == dict(
        zip(node_ids(other), other.keys, strict=True)
    )


def test_nodes_come_after_what_they_read(tmp_path: Path) -> None:
    for index, node in enumerate(compile_text(tmp_path, STUDY).graph.nodes):
        assert all(need < index for need in node.needs)


NESTED = (
    HEAD
    + """
stages:
  pool: {kind: prepare, source: tasks, split: {train: 80%, validation: 10%, test: 10%}}
  halves: {kind: prepare, source: pool.train, split: {sft: 10%, aif: 90%}}
  answers: {kind: demonstrate, prompts: halves.sft, teacher: weak}
  all_answers: {kind: demonstrate, prompts: pool.train, teacher: weak}
  part: {kind: sft, model: tiny, data: answers, epochs: 1, learning_rate: 1}
  whole: {kind: sft, model: tiny, data: all_answers, epochs: 1, learning_rate: 1}
  test_part: {kind: evaluate, model: part, prompts: pool.test}
  test_whole: {kind: evaluate, model: whole, prompts: pool.test}
  unseen: {kind: evaluate, model: part, prompts: halves.aif}
"""
)


def test_a_split_can_be_cut_further_and_stays_apart_from_its_siblings(tmp_path: Path) -> None:
    assert "unseen" in node_ids(compile_text(tmp_path, NESTED))


def test_parts_of_a_training_split_are_training_prompts(tmp_path: Path) -> None:
    text = NESTED + "  seen: {kind: evaluate, model: whole, prompts: halves.aif}"
    with pytest.raises(SpecError) as caught:
        compile_text(tmp_path, text)
    assert [d.code for d in caught.value.diagnostics] == ["AC333"]


def test_a_stage_stays_where_it_is_written_when_a_field_is_overridden(tmp_path: Path) -> None:
    plain, changed = (compile_text(tmp_path, STUDY, *more) for more in ((), ("stages.tune.batch_size=4",)))
    assert [n.place for n in changed.graph.nodes] == [n.place for n in plain.graph.nodes]


def test_a_stage_that_sets_what_it_sweeps_is_to_blame_alone(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        compile_text(tmp_path, STUDY.replace("checkpoint_every: 2", "learning_rate: 1e-3"))
    assert [d.code for d in caught.value.diagnostics] == ["AC207"]


def test_a_sweep_of_dpo_shares_the_reference(tmp_path: Path) -> None:
    """One node for each model and data, and no part of the keys; a sweep of lengths shares nothing."""
    swept = STUDY.replace("learning_rate: 1e-4}", "sweep: {learning_rate: [1e-4, 2e-4], beta: [0.1, 0.2]}}")
    program = compile_text(tmp_path, swept.split("tables:")[0])
    ids = node_ids(program)
    assert [i for i in ids if "~reference" in i] == ["rlaif~reference[seed=0]", "rlaif~reference[seed=1]"]
    point = ids.index("rlaif[seed=1,learning_rate=0.0001,beta=0.1]")
    (reading,) = program.graph.nodes[point].inputs["reference"]
    assert reading.node == ids.index("rlaif~reference[seed=1]")
    alone = compile_text(tmp_path, STUDY)
    assert program.keys[point] == alone.keys[node_ids(alone).index("rlaif[seed=1]")]
    lengths = STUDY.replace("learning_rate: 1e-4}", "learning_rate: 1e-4, sweep: {max_length: [300, 400]}}")
    found = node_ids(compile_text(tmp_path, lengths.split("tables:")[0]))
    assert not any("~reference" in i for i in found)


def test_simpo_has_no_reference_and_other_losses_of_the_sweep_do(tmp_path: Path) -> None:
    def ids(more: str) -> list[str]:
        text = STUDY.replace("learning_rate: 1e-4}", f"learning_rate: 1e-4, {more}}}").split("tables:")[0]
        return [i for i in node_ids(compile_text(tmp_path, text)) if "~reference" in i]

    assert ids("loss: simpo, sweep: {beta: [2, 3]}") == []
    assert ids("lora: {quantize: nf4}, sweep: {beta: [0.1, 0.2]}") == []  # its own is of 4 bits
    assert len(ids("sweep: {loss: [simpo, sigmoid]}")) == 2
    for field in (
        "gamma: 0.5",
        "loss: apo_zero, label_smoothing: 0.1",
        "loss: simpo, reference: known",
        "lora: {quantize: nf4}, reference: known",
    ):
        with pytest.raises(SpecError) as caught:
            ids(field + "}\n  known: {kind: reference, model: tune, data: labels")
        assert {d.code for d in caught.value.diagnostics} == {"AC321"}


NULLS = """axes: {arm: {whole: {limit: null}, part: {limit: 3}}}
stages: {p: {kind: prepare, source: tasks, note: "WRITTEN", limit: "${arm.limit}"}}"""


def test_a_field_of_an_axis_may_be_null_where_it_stands_alone(tmp_path: Path) -> None:
    program = compile_text(tmp_path, HEAD + NULLS)
    assert [node.config.model_dump()["limit"] for node in program.graph.nodes] == [None, 3]
    with pytest.raises(SpecError) as caught:
        compile_text(tmp_path, HEAD + NULLS.replace("WRITTEN", "first ${arm.limit}"))
    assert [d.code for d in caught.value.diagnostics] == ["AC202"]
    assert "is null, which cannot stand in a text" in caught.value.diagnostics[0].message
