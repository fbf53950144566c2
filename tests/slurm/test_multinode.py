"""Trainings over two nodes of a real cluster: the same weights, one story where a rank fails."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from runtime.files import read_json
from runtime.store import Store
from tests.commands import alignc, start
from tests.conftest import Cluster
from tests.slurm.test_stops import gone, until

pytestmark = [pytest.mark.slurm, pytest.mark.deepspeed]

TOLERANCE = 1e-5  # docs/slurm.md: of final weights, beside those of one process

# How a run is spread is no part of its key: lengths that nothing reaches give each one its own.
SPEC = """\
experiment: spread
axes:
  how:
    alone: {nodes: 1, sft: {}, dpo: {}, length: 128}
    spread: {nodes: 2, sft: {processes: 2}, dpo: {processes: 4, deepspeed: zero2}, length: 129}
models:
  fresh: {init: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, max_positions: 256}}
llms:
  weak: {provider: simulated, knows: [copy]}
  strong: {provider: simulated}
  critic: {provider: simulated}
sources:
  documents: {kind: world, what: documents, size: 200}
  tasks: {kind: world, size: 60}
stages:
  corpus: {kind: prepare, source: documents}
  prompts: {kind: prepare, source: tasks}
  wrong: {kind: demonstrate, prompts: prompts, teacher: weak}
  right: {kind: demonstrate, prompts: prompts, teacher: strong}
  labels: {kind: label, critic: critic, a: wrong, b: right}
  killed: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 200, learning_rate: 1e-3,
           parallel: {processes: 2}, resources: {nodes: 2, minutes: 10}}
  raises: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 200, learning_rate: 2e-3,
           parallel: {processes: 2}, resources: {nodes: 2, minutes: 10}}
  warned: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 4, batch_size: 8, learning_rate: 1e-3,
           max_length: 130, max_prompt_length: 64,
           parallel: {processes: 2}, resources: {nodes: 2, minutes: 10}}
  tune: {kind: sft, model: fresh, data: corpus, chat: plain, epochs: 4, batch_size: 8, learning_rate: 1e-3,
         max_length: "${how.length}", max_prompt_length: 64,
         parallel: "${how.sft}",
         resources: {nodes: "${how.nodes}", minutes: 10}}
  rlaif: {kind: dpo, model: {stage: tune, at: {how: alone}}, data: labels, epochs: 2, batch_size: 8,
          learning_rate: 1e-4, max_length: "${how.length}", max_prompt_length: 64,
          parallel: "${how.dpo}",
          resources: {nodes: "${how.nodes}", minutes: 10}}
"""
# Each start of a process takes seconds, so what crosses nodes is the SFT by DDP, one process on each, and
# the DPO by ZeRO-2, two on each: on one node every pair of these is tested.
PROCESSES = {"tune": 2, "rlaif": 4}


class Study:
    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "s")
        (folder / "spread.yaml").write_text(SPEC)
        repository = Path(__file__).parents[2]
        faulty = f"{repository / 'tests' / 'slurm' / 'faulty'}:{repository}"
        (folder / "site.yaml").write_text(f"parallel_tasks: 2\nenvironment: {{PYTHONPATH: '{faulty}'}}\n")

    def alignc(self, word: str, *more: str, **options: Any) -> str:
        return alignc(word, "spread.yaml", "--store", "s", *more, cwd=self.folder, timeout=600, **options)

    def nodes(self) -> dict[str, dict[str, Any]]:
        told = json.loads(self.alignc("status", "--format", "json", errors=False))
        return {node["id"]: node for node in told["nodes"]}

    def weights(self, node: dict[str, Any]) -> Path:
        (found,) = self.store.root.glob(f"[!.]*/{node['key']}/model/model.safetensors")
        return found


def failure(study: Study, node: dict[str, Any]) -> dict[str, Any] | None:
    path = study.store.failure(node["key"])
    return read_json(path) if path.exists() else None


def ranks(node: str, folder: Path) -> dict[int, int]:
    """Rank -> pid of the ranks that srun started for a node of the study: known by their description."""
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, KeyError):
            words = (process / "cmdline").read_text().split("\0")
            if "runtime.training.rank" not in words or str(folder) not in words[-4]:
                continue
            told = dict(word.partition("=")[::2] for word in (process / "environ").read_text().split("\0"))
            if words[0] != "srun" and read_json(Path(words[-3]))["id"] == node:
                found[int(told["SLURM_PROCID"])] = int(process.name)
    return found


def test_over_two_nodes(slurm: Cluster, tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.alignc("run", "--select", "+rlaif[how=alone]")  # one process, and what all read
    study.alignc("submit", "--cluster", "site.yaml")
    nodes = study.nodes()

    def in_the_middle(node: str) -> dict[int, int] | None:
        """The ranks of a node that has done some steps."""
        try:
            done = read_json(study.store.progress(nodes[node]["key"]))["done"]
        except (OSError, ValueError):
            return None
        return ranks(node, tmp_path) if done >= 10 else None

    # One rank is killed outright: the job says so at once, and the other has gone by then.
    of_killed = until(lambda: in_the_middle("killed"), "the training that is to be killed")
    killed_at = time.time()
    os.kill(of_killed[1], signal.SIGKILL)
    killed = until(lambda: failure(study, nodes["killed"]), "the record of its failure")
    assert re.search(r"rank 1 on n\d was killed by signal 9", killed["message"])
    assert gone(of_killed[0]) and killed["time"] - killed_at < 60

    # The time of one is about to end: it saves its state and takes another turn.
    until(lambda: in_the_middle("warned"), "the training that is to be warned")
    job = slurm.command("squeue", "-h", "-n", "spread.warned", "-o", "%A")
    slurm.command("scancel", "--batch", "--signal=USR2", job)

    # One rank raises: its own traceback stands before all that the others and srun may say.
    raised = until(lambda: failure(study, nodes["raises"]), "the failure of one rank")
    assert re.search(r"rank 1 on n\d failed first: ValueError: a fault of one rank", raised["message"])
    told, _ = start("logs", "spread.yaml", "raises", "--store", "s", cwd=tmp_path).communicate(timeout=60)
    first = told[told.index("Traceback") :]
    assert "srun: error" not in told[: told.index("Traceback")]
    assert first.index("a fault of one rank") < first.index("ranks.py")

    slurm.wait_until_empty(seconds=300)
    nodes = study.nodes()
    failed = {name for name, node in nodes.items() if node["phase"] != "done"}
    assert failed == {"killed", "raises"}, [study.store.log(nodes[n]["key"]).read_text() for n in failed]
    for stage, processes in PROCESSES.items():
        one, other = (study.weights(nodes[f"{stage}[how={how}]"]) for how in ("alone", "spread"))
        assert read_json(other.parents[1] / "manifest.json")["summary"]["processes"] == processes
        alone, spread = load_file(one), load_file(other)
        worst = max(float((value - spread[name]).abs().max()) for name, value in alone.items())
        print(f"{stage}: largest difference of a weight {worst:.1e}")
        assert worst < TOLERANCE
    log = study.store.log(nodes["warned"]["key"]).read_text()
    assert "requeueing Slurm job" in log and log.count("starting 2 processes: srun") == 2
    # Not one bit differs from the training that nobody warned.
    warned, whole = (study.weights(nodes[name]).read_bytes() for name in ("warned", "tune[how=spread]"))
    assert warned == whole
