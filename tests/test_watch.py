"""Watching, following and cancelling what runs on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from compiler.planning import selectors
from compiler.slurm.cancel import with_dependents
from compiler.slurm.queue import Look
from compiler.slurm.retry import forget_failures
from compiler.watching.screen import View, press, rows, screen
from compiler.watching.status import PHASES, Report, node_states, report, stage_lines
from compiler.watching.watch import LOCAL_S, LONGEST_S, SHORTEST_S, Watcher, interval
from runtime.claims import try_claim
from runtime.files import write_json
from runtime.spending import tried_gpu_hours
from runtime.store import Store
from tests.commands import alignc, start
from tests.compiler.specs import STUDY, compile_text
from tests.specs import LIGHT


def test_looks_at_slurm_grow_rare_while_nothing_happens() -> None:
    seen, seconds = [], 0.0
    for happened in (True, False, False, False, False, False, False, False, True):
        seconds = interval(seconds, happened=happened, in_slurm=True)
        seen.append(round(seconds))
    assert seen == [SHORTEST_S, 22, 34, 51, 76, 114, 171, LONGEST_S, SHORTEST_S]
    assert interval(LONGEST_S, happened=False, in_slurm=False) == LOCAL_S


def test_watching_a_run_tells_each_change_and_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    watching = start("status", "light.yaml", "--store", "s", "--watch", cwd=tmp_path)
    alignc("run", "light.yaml", "--store", "s", cwd=tmp_path)
    told, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0, told
    lines = [line.partition(" ")[2] for line in told.splitlines()]
    assert all(lines.count(f"done {n}") == 1 for n in ("prompts", "score[seed=0]", "labels[seed=1]")), told
    assert told.splitlines()[-1] == "light: 8 of 8 nodes done; 8 done"


def test_watching_a_failure_ends_with_1(tmp_path: Path) -> None:
    text = LIGHT.replace("{kind: world, size: 200}", "{kind: jsonl, path: t.jsonl, answer: answer}")
    (tmp_path / "light.yaml").write_text(text)
    (tmp_path / "t.jsonl").write_text("not json\n")
    alignc("run", "light.yaml", "--store", "s", cwd=tmp_path, code=1)
    told = alignc("status", "light.yaml", "--store", "s", "--watch", cwd=tmp_path, code=1)
    assert "failed prompts" in told and "blocked right  needs prompts" in told


# ---------------------------------------------------------------- what is told


def test_every_phase_can_be_selected() -> None:
    assert selectors.PHASES == PHASES


def test_a_running_job_tells_its_pace(store: Store, tmp_path: Path) -> None:
    program = compile_text(tmp_path, LIGHT)
    key = program.keys[0]
    claim = try_claim(store.claim_folder(key))
    assert claim is not None
    began = time.time() - 100
    claim.path.write_text(claim.path.read_text().replace('"since": ', f'"since": {began} , "was": '))
    write_json(store.progress(key), {"done": 20, "total": 100, "text": "rows", "time": began + 50})
    told = node_states(program, store, Look())[0]
    assert told.phase == "running" and told.left_s == pytest.approx(200)
    assert told.detail.endswith(", 20 of 100 rows, about 3.3 min left")
    write_json(store.progress(key), {"done": 0, "total": 100, "text": "", "time": began + 50})
    assert node_states(program, store, Look(), lambda kind: 150.0)[0].left_s == pytest.approx(50, abs=5)
    shown = stage_lines(report(program, store, Look(), usual=lambda kind: 1000.0))
    assert shown["prompts"].startswith("prompts  1 running; about 15 min left")
    claim.release()


def test_gpu_hours_are_told_where_gpus_are_used(store: Store, tmp_path: Path) -> None:
    program = compile_text(tmp_path, STUDY, "stages.tune.resources={gpus: 1}")
    needs = next(i for i, n in enumerate(program.graph.nodes) if n.resources.gpus)
    write_json(store.experiment("study") / "nodes" / f"{program.keys[needs]}.json", {})
    failure = {"message": "x", "outcome": "failed", "time": 0, "gpu_hours": 1.5}
    write_json(store.failure(program.keys[needs]), failure)
    assert report(program, store, Look()).gpu_hours == 1.5
    forget_failures(store, program.keys)  # what it cost stays known
    assert tried_gpu_hours(store, program.keys[needs]) == 1.5
    assert report(compile_text(tmp_path, LIGHT), store, Look()).gpu_hours is None


def walk(told: Report, *keys: str) -> View:
    view = View()
    for key in keys:
        view = press(view, key, told)
    return view


def test_keys_lead_from_stages_to_nodes_to_logs_and_back(store: Store, tmp_path: Path) -> None:
    program = compile_text(tmp_path, LIGHT)
    watcher = Watcher(program, (), store, None, lambda kind: None)
    watcher.look()
    told = watcher.told
    assert told is not None
    stages = list(rows(View(), told))
    wrong = stages.index("wrong")
    at_wrong = walk(told, *["down"] * wrong, "open")
    assert list(rows(at_wrong, told)) == ["wrong[seed=0]", "wrong[seed=1]"]
    log = press(press(at_wrong, "down", told), "open", told)
    assert log.node == "wrong[seed=1]" and press(log, "back", told).node == ""
    asked = dict(zip([n.id for n in program.graph.nodes], program.keys, strict=True))["wrong[seed=1]"]
    assert "has not been started" in screen(log, watcher, told, 20).plain
    store.log(asked).parent.mkdir(parents=True)
    store.log(asked).write_text("".join(f"line {n}\n" for n in range(100)))
    shown = screen(log, watcher, told, 20).plain
    assert "line 99" in shown and "line 85" in shown and "line 84" not in shown
    assert walk(told, "open", "back", "back") == View()
    assert walk(told, "up", *["down"] * 50).at == (len(stages) - 1, 0)
    assert "next look in 2 s" in screen(View(), watcher, told, 6).plain


# ---------------------------------------------------------------- logs -f, cancel, retry


def test_a_log_is_followed_until_its_node_is_done(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    following = start("logs", "-f", "light.yaml", "prompts", "--store", "s", cwd=tmp_path)
    alignc("run", "light.yaml", "--store", "s", cwd=tmp_path)
    told, _ = following.communicate(timeout=60)
    assert following.returncode == 0 and "prompts (" in told, told
    assert told.splitlines()[-1] == "prompts: done"
    both = alignc("logs", "-f", "light.yaml", "wrong", "-n", "1", "--store", "s", cwd=tmp_path)
    assert "==> wrong[seed=0] <==" in both and "wrong[seed=1]: done" in both


def test_cancel_stops_a_process_of_this_machine(store: Store, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(LIGHT)
    key = compile_text(tmp_path, LIGHT).keys[0]
    code = (
        "import sys, time; from pathlib import Path; from runtime.claims import try_claim;"
        "assert try_claim(Path(sys.argv[1])); print('claimed', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(store.claim_folder(key))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "claimed\n"
        nothing = alignc("cancel", "spec.yaml", "right", "--store", store.root, cwd=tmp_path)
        assert "nothing to cancel" in nothing
        told = alignc("cancel", "spec.yaml", "prompts", "--yes", "--store", store.root, cwd=tmp_path)
        assert f"process {owner.pid} of this machine: prompts" in told and "cancelled 1 of 1" in told
        assert owner.wait(10) == -15


def test_what_depends_on_a_node_is_found(tmp_path: Path) -> None:
    program = compile_text(tmp_path, LIGHT)
    ids = [n.id for n in program.graph.nodes]
    found = with_dependents(program.graph.nodes, [ids.index("wrong[seed=1]")])
    assert {ids[i] for i in found} == {"wrong[seed=1]", "score[seed=1]", "labels[seed=1]"}


def test_retry_without_slurm_says_to_run(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(LIGHT)
    told = alignc("retry", "light.yaml", "--failed", cwd=tmp_path, code=2, PATH=str(tmp_path))
    assert "use `alignc run`" in told
    assert "say `--failed`" in alignc("retry", "light.yaml", cwd=tmp_path, code=2)
