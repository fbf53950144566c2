"""`alignc run`: whole experiments on this machine, killed, stopped, doubled, broken and gone on with."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import alignc, artifacts, start, tables
from tests.specs import LIGHT, TINY

NODES = 8


@pytest.fixture
def light(tmp_path: Path) -> Path:
    (tmp_path / "light.yaml").write_text(LIGHT)
    return tmp_path


def tries(store: Path, key: str) -> int:
    """How often a job was begun: its log says so each time, also where it found the work done."""
    text = (store / ".logs" / f"{key}.log").read_text()
    return text.count("== ") - text.count("already sealed")


def wait_until_gone(session: int, seconds: float = 20) -> None:
    """Until no process of a session is left."""
    deadline = time.monotonic() + seconds
    while left := subprocess.run(["pgrep", "-s", str(session)], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline, f"processes go on: {left.split()}"
        time.sleep(0.1)


def test_a_run_makes_everything_once_and_prints_the_table(light: Path) -> None:
    text = alignc("run", "light.yaml", "--store", "s", cwd=light)
    assert f"light: {NODES} nodes to run, 0 reused" in text
    assert "win_rate" in text and "Weak" in text
    assert len(artifacts(light / "s")) == NODES
    again = alignc("run", "light.yaml", "--store", "s", cwd=light)
    assert f"light: 0 nodes to run, {NODES} reused" in again
    assert again[again.index("main") :] == text[text.index("main") :]
    assert "8 of 8 nodes done" in alignc("status", "light.yaml", "--store", "s", cwd=light)


def test_a_killed_run_goes_on_to_the_same_tables(light: Path) -> None:
    alignc("run", "light.yaml", "--store", "whole", cwd=light)
    whole = tables("light.yaml", "whole", light)
    rng = random.Random(0)
    for _ in range(6):
        process = start("run", "light.yaml", "--store", "killed", cwd=light)
        time.sleep(rng.uniform(0.3, 2.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    alignc("run", "light.yaml", "--store", "killed", cwd=light)
    assert tables("light.yaml", "killed", light) == whole
    assert artifacts(light / "killed") == artifacts(light / "whole")


def test_killing_the_runner_alone_ends_its_jobs(light: Path) -> None:
    (light / "slow.yaml").write_text(LIGHT.replace("size: 200", "size: 200000"))
    process = start("run", "slow.yaml", "--store", "s", cwd=light)
    while not list((light / "s").glob(".work/*/out.*")):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    wait_until_gone(process.pid)
    assert "stopped by SIGTERM" in alignc("status", "slow.yaml", "--store", "s", cwd=light)


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(light: Path) -> None:
    process = start("run", "light.yaml", "--store", "s", cwd=light)
    assert process.stdout is not None
    for line in process.stdout:
        if "made" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in rest and "Traceback" not in rest
    wait_until_gone(process.pid)
    done = len(artifacts(light / "s"))
    assert 0 < done < NODES
    text = alignc("run", "light.yaml", "--store", "s", cwd=light)
    assert f"{NODES - done} nodes to run, {done} reused" in text


def test_what_was_stopped_has_not_failed(light: Path) -> None:
    (light / "slow.yaml").write_text(LIGHT.replace("size: 200", "size: 20000"))
    process = start("run", "slow.yaml", "--store", "s", "-s", "prompts", cwd=light)
    while not list((light / "s").glob(".work/*/out.*")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    status = alignc("status", "slow.yaml", "--store", "s", cwd=light)
    assert "waiting: prompts: stopped by SIG" in status
    assert "failed" not in status and "blocked" not in status
    assert "+ prompts" in (plan := alignc("plan", "slow.yaml", "--store", "s", cwd=light))
    assert "stopped by SIG" in plan and "failed" not in plan


def test_two_runners_on_one_store_do_no_work_twice(light: Path) -> None:
    alignc("run", "light.yaml", "--store", "one", cwd=light)
    both = [start("run", "light.yaml", "--store", "two", cwd=light) for _ in range(2)]
    for process in both:
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text
    found = artifacts(light / "two")
    assert found == artifacts(light / "one")
    assert {key: tries(light / "two", key) for key in found} == dict.fromkeys(found, 1)
    assert tables("light.yaml", "two", light) == tables("light.yaml", "one", light)


def test_a_failure_is_told_and_the_rest_is_made(light: Path) -> None:
    text = LIGHT.replace(
        "tasks: {kind: world, size: 200}",
        "tasks: {kind: jsonl, path: t.jsonl, answer: answer}\n  good: {kind: world}",
    )
    (light / "light.yaml").write_text(
        text.replace("tables:", "  other: {kind: prepare, source: good}\ntables:")
    )
    (light / "t.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt"\n')
    told = alignc("run", "light.yaml", "--store", "s", cwd=light, code=1)
    assert "REFUSED prompts" in told and "t.jsonl:2" in told
    assert "skipped: they read one of the above" in told
    assert "prepare" in artifacts(light / "s").values()
    status = alignc("status", "light.yaml", "--store", "s", cwd=light)
    assert "failed: prompts: " in status and "6 blocked" in status.replace("7 blocked", "6 blocked")
    assert "t.jsonl:2" in alignc("logs", "light.yaml", "prompts", "--store", "s", cwd=light)
    assert "its last try failed" in alignc("plan", "light.yaml", "--store", "s", cwd=light)


def test_a_deleted_artifact_is_made_again_alone(light: Path) -> None:
    alignc("run", "light.yaml", "--store", "s", cwd=light)
    before = tables("light.yaml", "s", light)
    (label,) = (k for k, kind in artifacts(light / "s").items() if kind == "prepare")
    subprocess.run(["rm", "-r", light / "s" / "prepare" / label], check=True)
    assert "1 node to run, 7 reused" in alignc("run", "light.yaml", "--store", "s", cwd=light)
    assert tables("light.yaml", "s", light) == before


def test_a_damaged_input_blocks_what_reads_it(light: Path) -> None:
    alignc("run", "light.yaml", "--store", "s", "--set", "stages.score.coin_seed=1", cwd=light)
    (path,) = (light / "s" / "prepare").glob("*/test.jsonl")
    path.write_text(path.read_text()[:-10])
    told = alignc("run", "light.yaml", "--store", "s", "--set", "stages.right.seed=9", cwd=light, code=1)
    assert "BLOCKED" in told
    assert "another size than when it was sealed" in told


def test_an_artifact_without_its_manifest_is_told_with_the_way_out(light: Path) -> None:
    alignc("run", "light.yaml", "--store", "s", cwd=light)
    (path,) = (light / "s" / "prepare").glob("*/manifest.json")
    path.unlink()
    told = alignc("run", "light.yaml", "--store", "s", "--set", "stages.right.seed=9", cwd=light, code=1)
    assert f"{path.parent} has no manifest.json: remove it, and it will be made again" in told


def test_an_experiment_without_stages(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("experiment: e\n")
    assert "e: 0 nodes to run, 0 reused" in alignc("run", "e.yaml", cwd=tmp_path)
    assert alignc("status", "e.yaml", cwd=tmp_path).strip() == "e: 0 of 0 nodes done"
    assert "there is nothing to export: no stages" in alignc("export", "e.yaml", "out", cwd=tmp_path, code=2)


@pytest.mark.slow
def test_training_end_to_end_and_the_same_bits_again(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("seed: [0, 1]", "seed: [0]"))
    alignc("run", "tiny.yaml", "--store", "one", cwd=tmp_path, timeout=600)
    alignc("run", "tiny.yaml", "--store", "two", "--cpus", "1", cwd=tmp_path, timeout=600)
    assert tables("tiny.yaml", "one", tmp_path) == tables("tiny.yaml", "two", tmp_path)
    weights = sorted((tmp_path / "one").glob("*/*/model/model.safetensors"))
    assert len(weights) == 1 + 2 * 2 + 1
    for path in weights:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.deepspeed
def test_a_spec_spreads_training_over_deepspeed_ranks(tmp_path: Path) -> None:
    """Also: how a run is spread is no part of its key."""
    (tmp_path / "tiny.yaml").write_text(TINY[: TINY.index("  sft_answers:")])
    alone = json.loads(alignc("plan", "tiny.yaml", "--format", "json", cwd=tmp_path, errors=False))
    words = ("--set", "stages.base.parallel={processes: 2, deepspeed: zero3}")
    assert "3 nodes in" in alignc("run", "tiny.yaml", "--store", "s", *words, cwd=tmp_path)
    (key,) = (n["key"] for n in alone["nodes"] if n["id"] == "base")
    manifest = json.loads((tmp_path / "s" / "sft" / key / "manifest.json").read_text())
    assert manifest["summary"]["processes"] == 2
    assert manifest["config"]["parallel"] == {"processes": 2, "deepspeed": "zero3", "sharding": None}
    assert (tmp_path / "s" / "sft" / key / "model" / "model.safetensors").stat().st_size > 10_000


def test_a_terminal_shows_bars_with_the_nodes_names(light: Path) -> None:
    command = "alignc run light.yaml --store s".replace("alignc", f"{sys.executable} -m compiler.cli")
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], cwd=light, capture_output=True, text=True, timeout=120
    )
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout)
    assert done.returncode == 0, shown
    assert re.search(r"wrong\[seed=1\]\s+━", shown) and "[8/8] made" in shown
