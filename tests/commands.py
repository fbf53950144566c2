"""Run `alignc` as a user types it, and read what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ALIGNC = [sys.executable, "-m", "compiler.cli"]


def alignc(
    *words: str | Path,
    cwd: Path,
    code: int = 0,
    timeout: float = 300,
    errors: bool = True,
    **environment: str,
) -> str:
    """Run to the end; returns what it printed: both streams, without `errors` the first alone.

    A traceback is always a failure.
    """
    done = subprocess.run(
        [*ALIGNC, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text, text
    return text if errors else done.stdout


def _hear_interrupts() -> None:
    """A shell's background jobs ignore Ctrl-C, and hand that on; what a test starts must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*words: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Start in a process group of its own, as a shell does."""
    return subprocess.Popen(
        [*ALIGNC, *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )


def tables(spec: str, store: str, cwd: Path) -> dict[str, bytes]:
    """The tables of an experiment as `alignc results` writes them: file name -> content."""
    out = cwd / f"results-{store}"
    alignc("results", spec, "--store", store, "--out", out, cwd=cwd)
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.suffix in (".md", ".csv", ".tex")}


def artifacts(store: Path) -> dict[str, str]:
    """Sealed artifacts: key -> kind."""
    return {p.parent.name: p.parent.parent.name for p in store.glob("[!.]*/*/manifest.json")}
