"""Where a result came from: code version, packages, host, and what the work used."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime import __version__, templates

# Packages whose version can change a result.
PACKAGES = (
    "alignc",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "deepspeed",
    "peft",
    "bitsandbytes",
    "datasets",
    "numpy",
    "openai",
    "anthropic",
)


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def code_version(folder: Path) -> dict[str, Any]:
    """The git commit that holds a folder, and whether it was changed since; no commit outside git."""
    commit = _git(folder, "rev-parse", "HEAD")
    dirty = None if commit is None else bool(_git(folder, "status", "--porcelain", "--", str(folder)))
    return {"commit": commit, "dirty": dirty}


@cache
def code_digest() -> str:
    """The hash of alignc's own files: code and templates, wherever they are installed."""
    runtime = Path(__file__).resolve().parent
    told = hashlib.sha256()
    for folder in (runtime, runtime.parent / "compiler", templates.folder()):
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".py", ".j2", ".yaml"):
                told.update(f"{file.relative_to(folder)}\0".encode())
                told.update(hashlib.sha256(file.read_bytes()).digest())
    return told.hexdigest()


@cache
def packages() -> dict[str, str]:
    """Installed versions of the packages that matter."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """The software and the machine of this process."""
    return {
        "alignc": {"version": __version__, **code_version(Path(__file__).resolve().parent)},
        "packages": packages(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


@dataclass(slots=True)
class Meter:
    """Time and memory of a piece of work, children included."""

    started: float = field(default_factory=time.time)
    _cpu: float = field(default_factory=lambda: _cpu_seconds())

    def read(self) -> dict[str, Any]:
        """Unix times, seconds of wall and CPU time, peak memory in bytes of the largest process."""
        peak = max(
            resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        ended = time.time()
        return {
            "started": self.started,
            "ended": ended,
            "wall_s": round(ended - self.started, 3),
            "cpu_s": round(_cpu_seconds() - self._cpu, 3),
            "peak_rss_bytes": peak * 1024,
            "peak_gpu_bytes": _peak_gpu(),
        }


def _cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in spent)


def _peak_gpu() -> int | None:
    torch = sys.modules.get("torch")  # never imported for this alone
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())
