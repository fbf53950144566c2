"""What a machine looks like from inside a job: for `alignc doctor`, which runs it here or on a node.

    python -m runtime.probe FOLDER NAME [KEY...]

Writes FOLDER/NAME.json by a rename. Of the keys KEY it tells whether they are there (see `runtime.keys`),
and never what they are.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime.files import write_json
from runtime.keys import BadKey, find_key
from runtime.provenance import PACKAGES, code_digest

HERE = "here"  # a file that `doctor` leaves in FOLDER; the node must see it, and may not take its name
COMMANDS = ("scontrol", "sbatch", "squeue", "srun")


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _compiles() -> str:
    """What is wrong with compiling a C++ extension of Python, which DeepSpeed does; empty: nothing."""
    text = "#include <Python.h>\nint main() { return 0; }\n"
    call = ["g++", "-fsyntax-only", "-x", "c++", f"-I{sysconfig.get_paths()['include']}", "-"]
    if shutil.which("g++") is None:
        return "there is no g++"
    try:
        done = subprocess.run(call, input=text, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"g++ does not work: {error}"
    if done.returncode:
        return "g++ finds no Python.h" if "Python.h" in done.stderr else "g++ compiles nothing"
    ninja = Path(sys.executable).with_name("ninja")
    return "" if shutil.which("ninja") or ninja.exists() else "there is no ninja"


def _torch() -> dict[str, Any]:
    """The GPUs as torch sees them; `problem` where it cannot be imported."""
    try:
        import torch
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {error}"}
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = [torch.cuda.get_device_properties(i) for i in range(seen)]
    gpus = [{"name": p.name, "memory_gb": round(p.total_memory / 2**30, 1)} for p in properties]
    return {"gpus": gpus, "cuda": torch.version.cuda}


def _driver() -> list[str]:
    """GPUs as the driver tells them; none where there is no nvidia-smi."""
    call = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _may_take(folder: Path) -> bool:
    """Whether a name can be taken that somebody else has taken: claims rest on that it cannot."""
    mine = folder / f"mine.{os.getpid()}"
    mine.touch()
    try:
        os.link(mine, folder / HERE)
    except FileExistsError:
        return False
    finally:
        mine.unlink()
    return True


def _temporary() -> str:
    """What is wrong with the folder for temporary files; empty: nothing."""
    asked = os.environ.get("TMPDIR")
    try:
        with tempfile.NamedTemporaryFile(dir=asked):
            return ""
    except OSError as error:
        return f"{asked or tempfile.gettempdir()}: {error.strerror}"


def _key(name: str) -> bool | str:
    """Whether a key is there; why not, where it cannot be used."""
    try:
        return bool(find_key(name))
    except BadKey as error:
        return str(error)


def probe(folder: Path, keys: list[str]) -> dict[str, Any]:
    packages, network = _packages(), Path("/sys/class/net")
    seen = (folder / HERE).exists()
    return {
        "host": os.environ.get("SLURMD_NODENAME") or platform.node(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "code": code_digest(),
        "packages": packages,
        "torch": _torch() if "torch" in packages else None,
        "driver": _driver(),
        "compiles": _compiles(),
        "interfaces": sorted(p.name for p in network.iterdir()) if network.is_dir() else [],
        "commands": {name: shutil.which(name) is not None for name in COMMANDS},
        "keys": {name: _key(name) for name in keys},
        "temporary": _temporary(),
        "seen": seen,
        "takes": seen and _may_take(folder),
        "time": time.time(),
    }


def main() -> None:
    folder, name, *keys = sys.argv[1:]
    write_json(Path(folder) / f"{name}.json", probe(Path(folder), keys))


if __name__ == "__main__":
    main()
