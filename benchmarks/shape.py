"""The experiment that `plan.py` measures: prepare -> N x SFT -> select per 10 -> DPO -> evaluate -> table.

    python benchmarks/shape.py GROUPS FOLDER

writes it as our spec, with a store in which everything is sealed, and the same graph, node by node and
edge by edge, for Snakemake and doit. A group is one choice among ten runs: 36 jobs; 3 more come before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from compiler.planning.memory import remember
from compiler.planning.survey import choices
from compiler.program import Program, compile_spec
from runtime.job import CHOICE
from runtime.store import MANIFEST, SCHEMA, Store

RATES = [rate / 1000 for rate in range(1, 11)]
SPEC = """\
experiment: bench
axes: {{group: {groups}}}
models: {{tiny: {{init: {{hidden_size: 64}}, chat: plain}}}}
llms: {{weak: {{provider: simulated}}}}
sources: {{tasks: {{kind: world, size: 400}}}}
stages:
  prompts: {{kind: prepare, source: tasks, split: {{sft: 10%, aif: 70%, validation: 10%, test: 10%}}}}
  answers: {{kind: demonstrate, prompts: prompts.sft, teacher: weak}}
  others: {{kind: demonstrate, prompts: prompts.aif, teacher: weak}}
  tune: {{kind: sft, model: tiny, data: answers, epochs: 3, seed: "${{group}}",
         sweep: {{learning_rate: {rates}}}}}
  score: {{kind: evaluate, model: tune, prompts: prompts.validation}}
  best: {{kind: select, from: tune, by: score.accuracy}}
  samples: {{kind: sample, model: best, prompts: prompts.aif}}
  labels: {{kind: label, critic: weak, a: others, b: samples}}
  rlaif: {{kind: dpo, model: best, data: labels, epochs: 3, learning_rate: {dpo_rate}}}
  test: {{kind: evaluate, model: rlaif, prompts: prompts.test}}
tables:
  main: {{rows: group, columns: {{accuracy: test.accuracy}}}}
"""

# What a manifest says that a plan may read, and a row of data of any type.
MADE = {"summary": {}, "resources": {"asked": {"cpus": 1, "gpus": 0}, "used": {"wall_s": 60.0}}}
ROW = {"id": "1", "prompt": "a" * 40, "completion": "b" * 20, "chosen": "b" * 20, "rejected": "c" * 20}

SNAKEFILE = """\
import json

NEEDS = json.load(open("graph.json"))

wildcard_constraints:
    number=r"\\d+",

rule all:
    input: json.load(open("last.json"))
"""
RULE = """
rule {rule}:
    input: lambda wildcards: NEEDS["{stage}"][wildcards.number]
    output: "out/{stage}/{{number}}"
    shell: "touch {{output}}"
"""
DODO = """\
import json
from pathlib import Path

NEEDS = json.load(open("graph.json"))


def task_everything():
    for stage, jobs in NEEDS.items():
        for number, needs in jobs.items():
            target = f"out/{stage}/{number}"
            yield {
                "basename": stage,
                "name": number,
                "file_dep": needs or ["graph.json"],
                "targets": [target],
                "actions": [(Path(target).touch, [], {})],
            }
"""


def write_specs(groups: int, folder: Path) -> Path:
    """The spec, and beside it one in which a line is another; returns the first."""
    for name, dpo_rate in (("bench.yaml", "1e-4"), ("edited.yaml", "2e-4")):
        text = SPEC.format(groups=list(range(groups)), rates=RATES, dpo_rate=dpo_rate)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "bench.yaml"


def seal(spec: Path, store: Store) -> Program:
    """A store in which every artifact of the spec is sealed, with the least that a plan reads of them."""
    before = compile_spec(str(spec))
    keys = before.keys
    for node, key in zip(before.graph.nodes, keys, strict=True):
        if node.kind.name == "select":
            first = node.inputs["candidates"][0]
            assert first.node is not None
            chosen = {"key": keys[first.node], "path": first.path}
            _write(store.artifact("select", key) / CHOICE, {"chosen": chosen})
    program = compile_spec(str(spec), chosen=choices(store))  # keys after a choice are those of the chosen
    for node, made in zip(program.graph.nodes, program.identities, strict=True):
        folder = store.artifact(node.kind.name, made.key)
        for port in node.outputs.values():
            if port.path.endswith(".jsonl"):
                _write(folder / port.path, ROW)
        _write(folder / MANIFEST, {"schema": SCHEMA, **MADE, "config": node.config.model_dump(mode="json")})
        if made.asked != made.key:
            _write(store.realised(made.asked), {"key": made.key})
    remember(store, program.spec.experiment, zip(program.graph.nodes, program.identities, strict=True))
    return program


def _write(path: Path, value: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def files(program: Program) -> Iterator[tuple[str, str, list[str]]]:
    """For each node its stage, the file that it makes for Snakemake and doit, and those that it needs."""
    nodes, made = program.graph.nodes, list[str]()
    for node in nodes:
        stage = node.stage.replace("~", "_")
        made.append(f"out/{stage}/{len(made)}")
        yield stage, made[-1], [made[i] for i in node.needs]


def write_rivals(program: Program, folder: Path) -> None:
    """The graph for Snakemake and doit, each in a folder, and for Snakemake also where all is made."""
    graph: dict[str, dict[str, list[str]]] = {}
    for stage, made, needs in files(program):
        graph.setdefault(stage, {})[Path(made).name] = needs
    needed = {need for jobs in graph.values() for needs in jobs.values() for need in needs}
    made_all = [f"out/{stage}/{number}" for stage, jobs in graph.items() for number in jobs]
    rules = SNAKEFILE + "".join(RULE.format(rule=stage, stage=stage) for stage in graph)
    for name, file, text in (
        ("snakemake", "Snakefile", rules),
        ("snakemake-done", "Snakefile", rules),
        ("doit", "dodo.py", DODO),
        ("doit-done", "dodo.py", DODO),
    ):
        _write(folder / name / "graph.json", graph)
        (folder / name / file).write_text(text, encoding="utf-8")
        (folder / name / "last.json").write_text(json.dumps([m for m in made_all if m not in needed]))
        for stage in graph:
            (folder / name / "out" / stage).mkdir(parents=True)
    for made in made_all:  # in an order in which nothing is older than what it needs
        (folder / "snakemake-done" / made).touch()


def main() -> None:
    groups, folder = int(sys.argv[1]), Path(sys.argv[2])
    program = seal(write_specs(groups, folder), Store(folder / "store"))
    write_rivals(program, folder)


if __name__ == "__main__":
    main()
