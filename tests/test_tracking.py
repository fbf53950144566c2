"""Curves for other programs: each step once, whatever became of the run, and no training stops over them."""

from __future__ import annotations

import os
import signal
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compiler.output.describe import describe_jobs
from runtime.store import Store
from runtime.training import loop, trackers
from tests.compiler.specs import HEAD, compile_text
from tests.support import run
from tests.tiny import curve, digest, in_child, outcome, sft

SECRET = "5ec7e7" + "0" * 34


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of the event files below a folder: length, its check, record, its check."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.rglob("events.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 12 + length + 4
    return found


def tracked(store: Store, **asked: Any) -> dict[str, Any]:
    return {**sft(store), "experiment": "small", "tracking": asked}


def die_at_step(step: int) -> None:
    """Save after the first step, and die in a later one, its row sent already."""
    loop.RESUME_EVERY_S = 0.0
    tell, save = trackers.Trackers.tell, loop.Run._save

    def fatal(self: trackers.Trackers, row: trackers.Row) -> None:
        tell(self, row)
        if row["step"] == step:
            for tracker in self.open.values():
                tracker.close()
            signal.raise_signal(signal.SIGKILL)

    def rarely(self: loop.Run, digest: str, epoch: int) -> float:
        return save(self, digest, epoch) if self.position.step == 1 else 0.0

    trackers.Trackers.tell, loop.Run._save = fatal, rarely  # type: ignore[method-assign]


def test_the_spec_asks_for_it_and_no_key_changes(tmp_path: Path) -> None:
    spec = f"{HEAD}stages:\n  tasks_set: {{kind: prepare, source: tasks, split: {{all: 8}}}}\n"
    asked = "tracking={tensorboard: boards, wandb: {project: p}}"
    (plain,), (told,) = (list(describe_jobs(compile_text(tmp_path, spec, *o))) for o in ((), (asked,)))
    assert told.pop("tracking") == {"tensorboard": "boards", "wandb": {"project": "p", "mode": "online"}}
    assert told == plain


def test_tensorboard_has_each_step_once_after_a_kill(store: Store) -> None:
    job = tracked(store, tensorboard="boards")
    assert outcome(in_child(store, job, partial(die_at_step, 3))) == -signal.SIGKILL
    folder = store.root / ".tracking" / "boards" / "small"
    assert {step for _, step, _ in scalars(folder)} == {1, 2, 3}
    rows = curve(run(store, job))
    assert [path.name for path in folder.iterdir()] == [f"sft-{job['key'][:12]}"]
    seen = scalars(folder)
    assert [step for name, step, _ in seen if name == "loss"] == [row["step"] for row in rows]
    assert [v for name, _, v in seen if name == "loss"] == pytest.approx([row["loss"] for row in rows])


def test_trouble_is_one_warning(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be, and no key of the API: the same weights, and no more said."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (store.root / ".tracking").mkdir(parents=True)
    (store.root / ".tracking" / "boards").write_text("")
    job = tracked(store, tensorboard="boards", wandb={"project": "p"})
    with pytest.warns(UserWarning, match="does not show this training") as said:
        folder = run(store, job)
    told = [str(w.message) for w in said if "does not show" in str(w.message)]
    assert [text.partition(" does")[0] for text in told] == ["TensorBoard", "Weights & Biases"]
    assert "set WANDB_API_KEY" in told[1]
    untracked = Store(tmp_path / "other")
    assert digest(folder) == digest(run(untracked, sft(untracked)))


@pytest.mark.slow
def test_wandb_offline_holds_the_run_once_and_no_secret(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    job = tracked(store, wandb={"project": "p", "mode": "offline"})
    folder = run(store, job)
    folder.rename(store.root / "away")  # as after a kill: the artifact is not there, its trajectory is
    folder = run(store, job)
    (kept,) = (store.root / ".tracking" / "wandb").glob("offline-run-*")
    (file,) = kept.glob("*.wandb")
    assert job["key"] in file.name
    assert [step for step, names in history(file) if "loss" in names] == [
        row["step"] for row in curve(folder)
    ]
    texts = [p.read_bytes() for p in (store.root / ".tracking").rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in text for text in texts)


def history(file: Path) -> list[tuple[int, set[str]]]:
    """(step, names) of the rows of a `.wandb` file: blocks of pieces (check, length, kind), as in LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, rows = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = struct.unpack_from("<HB", data, at + 4)
        piece = data[at + 7 : at + 7 + length]
        at += 7 + length
        whole = piece if kind in (1, 2) else whole + piece  # 1: whole, 2: first, 3: middle, 4: last
        if kind in (1, 4):
            record = Record.FromString(whole)
            if record.HasField("history"):
                names = {item.key or ".".join(item.nested_key) for item in record.history.item}
                rows.append((record.history.step.num, names))
    return rows
