"""Status when Slurm misbehaves: outages, nonsense, unknown states, ids given out again, tasks that vanish.

squeue and sacct are scripts here that print what a test gives them; `tests/slurm/test_watching.py`
looks at a real cluster.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from compiler.errors import UsageError
from compiler.program import Program
from compiler.slurm.queue import GRACE_S, KEEP_S, look, look_now, submissions
from compiler.slurm.reasons import waits
from compiler.watching.status import SILENT_S, NodeState, node_states, report, to_text
from runtime.claims import owner_record
from runtime.files import write_json
from runtime.slurm.again import write_again
from runtime.slurm.policy import Again
from runtime.store import Store
from tests.compiler.specs import compile_text
from tests.specs import LIGHT

NOW = 1_800_000_000.0
FAKE = """#!/bin/sh
echo "$@" >> {folder}/{name}.calls
cat {folder}/{name}.err >&2 2>/dev/null
cat {folder}/{name}.out 2>/dev/null
exit $(cat {folder}/{name}.code)
"""


@dataclass(slots=True)
class FakeSlurm:
    """squeue and sacct as scripts on PATH, and a clock."""

    folder: Path
    store: Store
    program: Program
    monkeypatch: pytest.MonkeyPatch
    now: float = NOW

    def says(self, name: str, out: str = "", *, err: str = "", code: int = 0) -> None:
        for what, text in (("out", out), ("err", err), ("code", str(code))):
            (self.folder / f"{name}.{what}").write_text(text)

    def calls(self, name: str) -> int:
        path = self.folder / f"{name}.calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.monkeypatch.setattr(time, "time", lambda: self.now)

    def submitted(
        self, *nodes: str, id_: str = "7", token: str = "aa", job: str = "light.x", user: str = "ann"
    ) -> None:
        """As if an array (or one job) had been submitted now that makes these nodes."""
        key = {n.id: i.key for n, i in zip(self.program.graph.nodes, self.program.identities, strict=True)}
        told = {"token": token, "experiment": "light", "job": job, "time": self.now, "slurm_id": id_}
        told["user"] = user
        record = {**told, "keys": [[key[node]] for node in nodes]}
        write_json(self.store.root / ".submissions" / f"{token}.json", record)

    def row(self, index: int | None, state: str, reason: str = "None", **more: object) -> str:
        told = {"id": "7", "token": "aa", "submitted": int(self.now), "starts": "N/A", **more}
        number = "N/A" if index is None else index
        return (
            f"{told['id']};{told['id']};{number};{state};{told['submitted']};{told['starts']};"
            f"{reason};alignc:{told['token']};\n"
        )

    def status(self) -> dict[str, NodeState]:
        return {s.id: s for s in node_states(self.program, self.store, look(self.store))}


@pytest.fixture
def fake(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    found = FakeSlurm(tmp_path, store, compile_text(tmp_path, LIGHT), monkeypatch)
    for name in ("squeue", "sacct"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(FAKE.format(folder=tmp_path, name=name))
        script.chmod(0o755)
        found.says(name)
    found.says("sacct", err="Slurm accounting storage is disabled", code=1)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    found.later(0)
    return found


def test_nothing_is_asked_where_nothing_was_submitted(fake: FakeSlurm) -> None:
    assert {s.phase for s in fake.status().values()} == {"waiting"}
    assert fake.calls("squeue") == 0


def test_a_task_waits_with_its_reason_its_time_and_its_start(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    rows = fake.row(None, "PENDING", "Priority", starts=int(NOW) + 3600)
    fake.says("squeue", rows)
    fake.later(600)
    told = fake.status()["prompts"]
    assert (told.phase, told.slurm_id, told.waited_s) == ("queued", "7", 600.0)
    assert told.detail == (
        "Slurm job 7, pending for 10 min, to start in about 50 min: jobs of higher priority go first"
    )
    assert fake.calls("squeue") == 1


def test_jobs_of_everybody_who_submitted_to_the_store_are_seen(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    fake.submitted("right", id_="8", token="bb", user="bob")
    fake.says("squeue", fake.row(None, "PENDING") + fake.row(None, "RUNNING", id="8", token="bb"))
    assert (fake.status()["prompts"].phase, fake.status()["right"].phase) == ("queued", "running")
    assert set((fake.folder / "squeue.calls").read_text().splitlines()) == {
        "--user=ann,bob --noheader --array --states=all --Format=JobID:;,ArrayJobID:;,ArrayTaskID:;,State:;,"
        "SubmitTime:;,StartTime:;,Reason:;,Comment:;"
    }


def test_states_that_nobody_has_heard_of_are_told_as_they_are(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    fake.says("squeue", fake.row(None, "TELEPORTING", "MoonPhase"))
    told = fake.status()["prompts"]
    assert told.phase == "queued" and "teleporting" in told.detail and "MoonPhase" in told.detail


def test_lines_that_make_no_sense_are_passed_over(fake: FakeSlurm) -> None:
    fake.submitted("wrong[seed=0]", "wrong[seed=1]")
    nonsense = "slurm_load_jobs warning\n;;;\n1;2\n\x00\n9;9;N/A;PENDING;soon;never;None;a;comment;\n"
    stranger = fake.row(7, "RUNNING") + fake.row(0, "RUNNING", token="zz")
    fake.says("squeue", nonsense + stranger + fake.row(1, "RUNNING"))
    told = fake.status()
    assert told["wrong[seed=1]"].phase == "running"
    assert told["wrong[seed=0]"].phase == "queued"  # submitted just now, and not visible yet


def test_an_outage_leaves_what_was_said_last_for_a_while(fake: FakeSlurm) -> None:
    fake.submitted("wrong[seed=0]", "wrong[seed=1]", "right")
    fake.says("squeue", fake.row(0, "RUNNING") + fake.row(1, "PENDING", "Resources"))
    assert fake.status()["wrong[seed=0]"].phase == "running"
    fake.says("squeue", err="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    fake.later(300)
    told = fake.status()
    assert [told[f"wrong[seed={n}]"].phase for n in (0, 1)] == ["running", "queued"]
    assert "(Slurm does not answer since " in told["wrong[seed=1]"].detail
    shown = report(fake.program, fake.store, look(fake.store))
    assert "Unable to contact slurm controller" in to_text(shown, every_node=False)
    with pytest.raises(UsageError, match="Unable to contact"):
        look_now(fake.store)  # nobody submits on old news
    fake.later(SILENT_S)
    told = fake.status()
    assert told["wrong[seed=1]"].phase == "unknown" and "was queued" in told["wrong[seed=1]"].detail
    fake.says("squeue", fake.row(0, "RUNNING") + fake.row(1, "RUNNING"))  # Slurm has come back
    assert fake.status()["wrong[seed=1]"].phase == "running"


def test_without_squeue_what_was_submitted_is_queued(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    fake.monkeypatch.setenv("PATH", str(fake.folder))
    told = fake.status()["prompts"]
    assert told.phase == "queued" and "(Slurm never answered)" in told.detail
    assert look_now(fake.store).queued == {}


def test_what_left_the_queue_without_a_trace_is_unknown_then_lost(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    fake.says("squeue", fake.row(None, "RUNNING"))
    fake.status()
    fake.says("squeue")
    fake.later(300)
    assert fake.status()["prompts"].phase == "unknown"
    fake.later(GRACE_S + 1)
    told = fake.status()
    assert told["prompts"].phase == "lost" and "`alignc retry`" in told["prompts"].detail
    assert told["right"].phase == "blocked"
    assert look_now(fake.store).queued == {}  # so that it may be submitted again
    fake.submitted("prompts", id_="8", token="bb")
    fake.says("squeue", fake.row(None, "PENDING", id=8, token="bb"))
    assert fake.status()["prompts"].slurm_id == "8"
    assert [r["token"] for _, r in submissions(fake.store)] == ["bb"]


def test_how_a_task_ended_stays_known_when_slurm_forgets_it(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    fake.says("squeue", fake.row(None, "TIMEOUT"))
    fake.status()
    fake.says("squeue")
    fake.later(86400)
    told = fake.status()["prompts"]
    assert told.phase == "failed" and "it reached its time limit (TIMEOUT)" in told.detail
    fake.later(KEEP_S)
    fake.status()
    assert submissions(fake.store) == []


def test_a_failure_of_before_the_submission_does_not_count(fake: FakeSlurm) -> None:
    key = fake.program.keys[0]
    failure = {"message": "old", "outcome": "failed", "time": NOW - 3600}
    write_json(fake.store.failure(key), failure)
    assert fake.status()["prompts"].detail.startswith("raised an error: old; read the traceback")
    fake.submitted("prompts")
    fake.says("squeue", fake.row(None, "NODE_FAIL"))
    assert fake.status()["prompts"].detail.startswith("Slurm job 7: its node failed")
    write_json(fake.store.failure(key), {**failure, "message": "new", "time": NOW + 5})
    assert fake.status()["prompts"].detail.startswith("raised an error: new")


def test_a_task_that_slurm_took_back_from_a_dead_node_is_queued(fake: FakeSlurm) -> None:
    """Its claim looks alive for minutes, since nobody here can see that the process has gone."""
    fake.submitted("prompts")
    key = fake.program.keys[0]
    claim = fake.store.claim_folder(key) / "1"
    write_json(claim, {**owner_record(), "host": "n1", "task": "7"})
    os.utime(claim, (NOW, NOW))
    fake.says("squeue", fake.row(None, "RUNNING"))
    assert fake.status()["prompts"].detail.startswith("at work on n1")
    write_again(fake.store, key, Again(why="again with 64 GB: ran out of memory with 32"))
    fake.says("squeue", fake.row(None, "PENDING", "BeginTime"))
    told = fake.status()["prompts"]
    assert told.phase == "queued"
    assert told.detail.endswith("after a requeue; again with 64 GB: ran out of memory with 32")


def test_accounting_tells_of_the_submission_and_not_of_another_with_its_id(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    submitted = int(NOW)
    fake.later(300)
    fake.says(
        "sacct",
        f"7;{submitted - 9000};{submitted - 8990};{submitted - 8000};COMPLETED;light.x\n"  # an earlier 7
        f"7;{submitted + 1};{submitted + 2};{submitted + 9};OUT_OF_MEMORY;light.x\n"
        f"7;{submitted + 99};{submitted + 99};{submitted + 100};COMPLETED;somebody.else\n"
        "nonsense\n",
    )
    told = fake.status()["prompts"]
    assert told.phase == "failed" and "OUT_OF_MEMORY" in told.detail
    fake.later(3600)
    fake.status()
    assert fake.calls("sacct") == 1  # what is known is not asked again


def test_accounting_that_lags_is_asked_until_the_grace_ends(fake: FakeSlurm) -> None:
    fake.submitted("wrong[seed=0]", "wrong[seed=1]")
    fake.later(300)
    fake.says(
        "sacct", f"7_[0-1];{int(NOW)};Unknown;Unknown;PENDING;light.x\n7_1;{int(NOW)};;;WARPED;light.x\n"
    )
    assert fake.status()["wrong[seed=0]"].phase == "unknown"
    fake.later(GRACE_S / 2)
    fake.says("sacct", f"7_0;{int(NOW)};{int(NOW)};{int(NOW)};CANCELLED by 1000;light.x\n")
    told = fake.status()
    assert told["wrong[seed=0]"].detail.startswith("Slurm job 7_0: cancelled by a person")
    assert told["wrong[seed=1]"].phase == "unknown"
    for _ in range(3):
        fake.later(GRACE_S)
        fake.status()
    assert fake.status()["wrong[seed=1]"].phase == "lost"
    assert fake.calls("sacct") == 3


def test_where_there_is_no_accounting_it_is_asked_once(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    for _ in range(4):
        fake.later(61)
        fake.status()
    assert fake.calls("sacct") == 1


def test_a_memory_that_is_damaged_costs_words_only(fake: FakeSlurm) -> None:
    fake.submitted("prompts")
    fake.says("squeue", fake.row(None, "RUNNING"))
    for text in ("{", "[]", '{"schema": "alignc.queue/2"}', '{"schema": "alignc.queue/1"}'):
        (fake.store.root / ".queue.json").write_text(text)
        assert fake.status()["prompts"].phase == "running"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("None", ""),
        ("(Priority)", "jobs of higher priority go first"),
        ("QOSMaxJobsPerUserLimit", "as many of your jobs run as may at once (QOSMaxJobsPerUserLimit)"),
        ("AssocGrpGRES", "as many GPUs are in use as may be at once (AssocGrpGRES)"),
        ("AssocGrpCPUMinutesLimit", "its share of hours is used up (AssocGrpCPUMinutesLimit)"),
        ("QOSMaxCpuPerUserLimit", "as many CPUs are in use as may be at once (QOSMaxCpuPerUserLimit)"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "the nodes that it needs are down, or reserved"),
        ("Whatever", "Whatever"),
    ],
)
def test_reasons_in_words(reason: str, words: str) -> None:
    assert waits(reason) == words
