"""Cluster profiles on a real cluster: doctor and detect, containers, folders, and what tells of the end."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.commands import alignc
from tests.conftest import Cluster
from tests.slurm.test_submit import wait_for
from tests.specs import LIGHT

pytestmark = pytest.mark.slurm


def doctor(cwd: Path, *words: str, code: int = 0, **environment: str) -> dict[str, list[str]]:
    """Outcome -> what was found and how to fix it."""
    call = ("doctor", *words, "--store", "s", "--wait", "240", "--format", "json")
    told = json.loads(alignc(*call, cwd=cwd, code=code, errors=False, **environment))
    assert told["schema"] == "alignc.doctor/1"
    found: dict[str, list[str]] = {"ok": [], "warning": [], "problem": []}
    for check in told["checks"]:
        found[check["outcome"]].append(f"{check['group']}: {check['text']} -> {check['fix']}")
    assert {outcome: len(texts) for outcome, texts in found.items()} == told["counts"]
    return found


def test_doctor_finds_what_is_well_and_what_is_not(slurm: Cluster, tmp_path: Path) -> None:
    slurm.command("scontrol", "create", "partitionname=brief", "nodes=n1", "maxtime=30")
    try:
        (tmp_path / "well.yaml").write_text("partitions: {brief: {max_minutes: 30, cpus: 8}}\n")
        well = doctor(tmp_path, "--cluster", "well.yaml")
        assert well["problem"] == []
        assert any("node of brief: Python" in text and "starts on n1" in text for text in well["ok"])
        assert any("it sees the store" in text for text in well["ok"])
        (tmp_path / "ill.yaml").write_text(
            "partitions: {breif: {}, brief: {max_minutes: 60, gpu_type: h100, gpus: 2}}\n"
            "network_interface: ib7\n"
            "resources: [{kind: demonstrate, minutes: 31, partition: main, cpus: 9}]\n"
        )
        spec = LIGHT.replace(
            "strong: {provider: simulated}", "strong: {provider: openai, model: o-2024-01-01}"
        )
        (tmp_path / "light.yaml").write_text(spec)
        ill = doctor(tmp_path, "light.yaml", "--cluster", "ill.yaml", code=1, OPENAI_API_KEY="")
        told = "\n".join(ill["problem"])
        assert "Slurm has no partition breif -> did you mean `brief`?" in told
        assert "brief: the profile says 60 minutes, Slurm has 30 -> `max_minutes: 30`" in told
        assert "brief has no GPU of type h100 -> its types: a100" in told
        assert "wrong asks for 9 CPUs, 4 GiB, 31 minutes; partition main has 8 CPUs" in told
        assert "node of brief: sbatch refused a job" in told  # no h100
        assert "node of main: it has no network interface ib7 -> it has" in told
        assert "node of main: OPENAI_API_KEY is not set" in told
        assert not list(tmp_path.glob("**/.doctor*"))
        slurm.wait_until_empty()  # a job that has written its findings still has to end
    finally:
        slurm.command("scontrol", "delete", "partitionname=brief")


APPTAINER = """\
#!/bin/bash
# Stands in for the program: notes its arguments, and carries out what comes after the image.
printf '%s\\n' "$*" >> "{record}"
while [ "$1" != image.sif ]; do shift; done
shift
exec "$@"
"""
SITE = """\
container: {{apptainer: image.sif, binds: ["$HOME:/home/inside"]}}
python: {python}
scratch: {folder}/scratch of $USER
cache: {folder}/cache
setup: ['export USER=ann PATH={folder}:$PATH']
environment: {{MARK: here}}
mail: {{to: me@example.org}}
webhook: {{url_env: HOOK}}
"""
BAD_SOURCE = "  bad: {kind: jsonl, path: bad.jsonl, answer: answer}\n"
BAD_STAGES = """\
  broken: {kind: prepare, source: bad}
  late: {kind: demonstrate, prompts: broken, teacher: weak}
  after: {kind: evaluate, completions: late}
"""


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    """The URL of a webhook, and what it is told."""
    told: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/very-secret", told
    server.shutdown()


def test_a_draft_and_a_container_and_a_webhook_carry_an_experiment(
    slurm: Cluster, tmp_path: Path, hook: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, told = hook
    monkeypatch.setenv("HOOK", url)
    assert "CHOOSE" in alignc("cluster", "detect", "--out", "site.yaml", cwd=tmp_path)
    draft = (tmp_path / "site.yaml").read_text()
    more = SITE.format(folder=tmp_path, python=sys.executable)
    (tmp_path / "site.yaml").write_text(draft + more)
    program, record = tmp_path / "apptainer", tmp_path / "record"
    program.write_text(APPTAINER.format(record=record))
    program.chmod(0o755)
    spec = LIGHT.replace("stages:\n", f"{BAD_SOURCE}stages:\n").replace("tables:\n", f"{BAD_STAGES}tables:\n")
    (tmp_path / "light.yaml").write_text(spec)
    (tmp_path / "bad.jsonl").write_text("not json\n")
    submitted = alignc("submit", "light.yaml", "--store", "s", "--cluster", "site.yaml", cwd=tmp_path)
    assert "submitted light.end as Slurm job" in submitted
    assert set(slurm.command("squeue", "-h", "-o", "%P").split()) <= {"main"}
    phases = wait_for("light.yaml", "s", tmp_path)
    assert {n for n, p in phases.items() if p != "done"} == {"broken", "late", "after"}
    slurm.wait_until_empty()
    assert told == [
        {
            "experiment": "light",
            "nodes": 11,
            "done": 8,
            "failed": 1,
            "blocked": 2,
            "left": 0,
            "failed_nodes": ["broken"],
            "text": "light: 11 nodes, 8 done, 1 failed, 2 blocked",
        }
    ]
    calls = record.read_text().splitlines()
    scratch, cache = tmp_path / "scratch of ann", tmp_path / "cache"
    assert len(calls) == 11 and all(
        call.startswith(f"exec --bind {tmp_path}/s --bind {scratch}") for call in calls
    )
    assert scratch.is_dir() and cache.is_dir()
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not [p for p in kept if b"very-secret" in p.read_bytes()]
