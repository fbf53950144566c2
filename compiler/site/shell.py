"""What a profile says of a site -> shell text of a batch script: folders, variables, the container's prefix.

`$NAME` in a path of the profile is a variable of the node. One that is not set ends the job with a
message, before anything is written to a place that nobody meant. All else is quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from compiler.site.profile import Container, Profile

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_SPECIAL = re.compile(r'([\\"`$])')
# Below `cache`: variable -> folder. What a library has no variable for goes by XDG_CACHE_HOME.
CACHES = {
    "XDG_CACHE_HOME": "",
    "HF_HOME": "/huggingface",
    "TORCH_EXTENSIONS_DIR": "/torch_extensions",
    "TRITON_CACHE_DIR": "/triton",
}
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def node_path(text: str) -> str:
    """A path as one shell word; `$NAME`, `${NAME}` and a leading `~/` are the node's."""
    text = "$HOME" + text[1:] if text.startswith("~/") else text
    if not _VARIABLE.search(text):
        return shlex.quote(text)
    parts = _VARIABLE.split(text)  # literal, name in braces, bare name, literal ...
    words = [_SPECIAL.sub(r"\\\1", parts[0])]
    for braced, bare, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        words += [f"${{{braced or bare}:?is not set on this node}}", _SPECIAL.sub(r"\\\1", literal)]
    return f'"{"".join(words)}"'


def preparation(profile: Profile) -> Iterator[str]:
    """Lines that set variables and make folders; the profile's `environment` comes after them."""
    if profile.scratch:
        yield f"export TMPDIR={node_path(profile.scratch)}"
    if profile.cache:
        for variable, folder in CACHES.items():
            yield f"export {variable}={node_path(profile.cache + folder)}"
    if made := _made(profile):
        yield f"mkdir -p {' '.join(made)}"
    if profile.network_interface:
        for variable in INTERFACES:
            yield f"export {variable}={shlex.quote(profile.network_interface)}"
    if profile.launch:
        yield f"export ALIGNC_LAUNCH={shlex.quote(profile.launch)}"


def _made(profile: Profile) -> list[str]:
    """The folders that are made on the node, as shell words."""
    return ['"$TMPDIR"'] * bool(profile.scratch) + ['"$XDG_CACHE_HOME"'] * bool(profile.cache)


def inside(profile: Profile, store: str, *, gpus: bool) -> str:
    """What stands before the command of a job that runs in a container; `store` is a shell word."""
    container = profile.container
    if container is None:
        return ""
    seen = [store, *_made(profile), *map(node_path, container.binds)]
    words = _apptainer(container, seen, gpus) if container.apptainer else _pyxis(container, seen)
    return " ".join(words) + " "


def _apptainer(container: Container, seen: list[str], gpus: bool) -> Iterator[str]:
    assert container.apptainer is not None
    yield "apptainer exec"
    if gpus:
        yield "--nv"
    for folder in seen:
        yield f"--bind {folder}"
    yield from map(shlex.quote, container.options)
    yield node_path(container.apptainer)


def _pyxis(container: Container, seen: list[str]) -> Iterator[str]:
    """A step of its own; srun hands USR2 on to it, and takes no number of CPUs from the job."""
    assert container.pyxis is not None
    yield 'srun --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK"'
    yield f"--container-image={node_path(container.pyxis)}"
    both = [folder if ":" in folder else f"{folder}:{folder}" for folder in seen]
    yield f"--container-mounts={','.join(both)}"
    yield from map(shlex.quote, container.options)


def python_inside(profile: Profile, here: str) -> str:
    """The Python of the jobs; `here` is the one that submits, which an image does not have."""
    return profile.python or ("python3" if profile.container else here)
