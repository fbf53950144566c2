"""What a store holds that no named spec needs: found, measured, and removed so that a kill does no harm."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.program import Program
from compiler.slurm.queue import look
from runtime.claims import owner_of, try_claim
from runtime.files import read_json
from runtime.identity import trajectory_key
from runtime.plural import counted
from runtime.stage import stage_kind
from runtime.store import MANIFEST, Store

TRAJECTORIES = ".trajectories"
ANSWERS = ".answers"
GRAVES = ".graves"  # what is being removed; whatever a killed removal left there goes next time
KEY = re.compile(r"[0-9a-f]{40,64}")  # nothing else in a folder of artifacts is ever touched
JOB_NAME = "#SBATCH --job-name="
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What the named specs need: artifacts by key, experiments, and states of trainings to go on from.

    answers: whether those of paid models stay, which any spec may ask for.
    """

    keys: frozenset[str] = frozenset()
    experiments: frozenset[str] = frozenset()
    trajectories: frozenset[str] = frozenset()
    answers: bool = True


def needs_of(programs: Iterable[Program], finished: frozenset[str] = frozenset()) -> Needs:
    """All that the graphs of some specs name; of no spec nothing.

    `finished`: keys of trainings whose state is not needed either, to go on from.
    """
    programs = list(programs)
    identities = [identity for program in programs for identity in program.identities]
    return Needs(
        keys=frozenset(key for identity in identities for key in (identity.key, identity.asked)),
        experiments=frozenset(program.spec.experiment for program in programs),
        trajectories=frozenset(i.trajectory for i in identities if i.key not in finished),
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder that may go.

    `group` is the folder of the store it is in; `bytes` what its removal frees; `changed` the Unix time
    of its last change; `made_by` the node and experiment behind it, where that is known.
    """

    group: str
    path: Path
    bytes: int
    changed: float
    made_by: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What may go, and how many artifacts stay and why."""

    entries: tuple[Entry, ...]
    needed: int
    in_use: int
    young: int

    @property
    def bytes(self) -> int:
        return sum(e.bytes for e in self.entries)


# ---------------------------------------------------------------- what there is


def _listing(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@dataclass(frozen=True, slots=True)
class _Contents:
    """One look at a store: artifacts by key, and the experiments that have described a job."""

    store: Store
    artifacts: Mapping[str, Path]
    experiments: Mapping[str, tuple[str, ...]]

    def told(self, key: str) -> Mapping[str, Any]:
        """An artifact's manifest or else a job's description; empty where neither can be read."""
        places = [self.artifacts[key] / MANIFEST] if key in self.artifacts else []
        places += [self.store.experiment(e) / "nodes" / f"{key}.json" for e in self.experiments.get(key, ())]
        for place in places:
            try:
                return read_json(place)
            except (OSError, ValueError):
                continue
        return {}

    def trajectory(self, key: str) -> str:
        """The trajectory that a training is on; empty for other jobs."""
        recipe = self.told(key).get("recipe") or {}
        kind = stage_kind(str(recipe.get("kind")))
        return trajectory_key(recipe, kind.prefix) if kind and kind.prefix else ""

    def made_by(self, key: str) -> str:
        told = self.told(key)
        known = self.experiments.get(key) or ((told.get("spec") or {}).get("path"),)
        return ", ".join(str(word) for word in (told.get("id"), *known) if word)


def _look(store: Store) -> _Contents:
    kinds = [p for p in _listing(store.root) if p.is_dir() and not p.name.startswith(".")]
    artifacts = {p.name: p for kind in kinds for p in _listing(kind) if KEY.fullmatch(p.name)}
    experiments: dict[str, list[str]] = {}
    for experiment in _listing(store.root / ".experiments"):
        for path in _listing(experiment / "nodes"):
            experiments.setdefault(path.stem, []).append(experiment.name)
    return _Contents(store, artifacts, {key: tuple(names) for key, names in experiments.items()})


def _in_use(contents: _Contents) -> set[str]:
    """All keys of experiments of which any is worked on or queued, and what these are made from.

    A run decides early what it will reuse later. Where Slurm does not answer, every task that was not
    yet seen to end counts as queued.
    """
    store = contents.store
    waiting = [key for key, task in look(store).tasks.items() if task.awaited]
    waiting += [key for key in store.working() if owner_of(store.claim_folder(key)) is not None]
    at_work = {experiment for key in waiting for experiment in contents.experiments.get(key, ())}
    waiting += [key for key, names in contents.experiments.items() if not at_work.isdisjoint(names)]
    found: set[str] = set()
    realised = store.realisations()
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            inputs = contents.told(key).get("inputs") or {}
            waiting += [r["key"] for records in inputs.values() for r in records if "key" in r]
            if key in realised:
                waiting.append(read_json(store.realised(key))["key"])
    return found


# ---------------------------------------------------------------- what may go


def find(store: Store, needs: Needs, keep_days: float = 0.0) -> Found:
    """Everything that is neither needed nor in use, nor younger than `keep_days`."""
    contents = _look(store)
    busy = _in_use(contents)
    entries: list[Entry] = []
    young = 0
    links: Counter[tuple[int, int]] = Counter()
    for group, path, key in _unneeded(contents, needs, busy):
        try:
            changed, files = _walk(path)
        except FileNotFoundError:
            continue  # it went meanwhile
        if time.time() - changed < keep_days * DAY_S:
            young += 1
        else:
            made_by = contents.made_by(key) if key else ""
            entries.append(Entry(group, path, _freed(files, links), changed, made_by))
    kept = needs.keys & contents.artifacts.keys()
    return Found(tuple(entries), len(kept), len(busy & contents.artifacts.keys() - kept), young)


def _unneeded(contents: _Contents, needs: Needs, busy: set[str]) -> Iterator[tuple[str, Path, str]]:
    """Group, path and key of everything that may go, whatever its age."""
    root, keys = contents.store.root, needs.keys | busy
    for key, path in contents.artifacts.items():
        if key not in keys:
            yield path.parent.name, path, key
    for path in _listing(root / ".work"):
        if path.name.startswith("."):  # a grave, left by a process that was killed
            yield ".work", path, ""
        elif path.name not in busy and (path.name not in keys or path.name in contents.artifacts):
            yield ".work", path, path.name
    for group in (".logs", ".failures"):
        for path in _listing(root / group):
            if KEY.fullmatch(path.stem) and path.stem not in keys:
                yield group, path, ""
    experiments = needs.experiments.union(*(contents.experiments.get(key, ()) for key in busy))
    for path in _listing(root / ".experiments"):
        if path.name not in experiments:
            yield ".experiments", path, ""
    for path in _listing(root / ".logs" / "slurm"):
        if not _job_name(path).startswith(tuple(f"{e}." for e in experiments)):
            yield ".logs", path, ""
    for path in _listing(root / ".realised"):
        if path.stem not in keys:
            yield ".realised", path, ""
    trajectories = needs.trajectories | {t for t in map(contents.trajectory, busy) if t}
    for path in _listing(root / TRAJECTORIES):
        if path.name not in trajectories and owner_of(path / "claim") is None:
            yield TRAJECTORIES, path, ""
    for path in _listing(root / ANSWERS):
        if not needs.answers and not busy:  # whoever is at work may be writing there
            yield ANSWERS, path, ""
    for path in _listing(root / GRAVES):
        yield GRAVES, path, ""


def _job_name(path: Path) -> str:
    """The name of the job that a file of Slurm's logs is about: `experiment.stage`."""
    if path.suffix == ".out":
        return path.name
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix(JOB_NAME) for line in lines if line.startswith(JOB_NAME)), "")


def _walk(path: Path) -> tuple[float, list[os.stat_result]]:
    """The last change below a path, and the state of every file there. Links are not followed."""
    own = path.lstat()
    if path.is_symlink() or not path.is_dir():
        return own.st_mtime, [own]
    changed, files = own.st_mtime, list[os.stat_result]()
    with os.scandir(path) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                newest, below = _walk(Path(entry.path))
                files += below
            else:
                seen = entry.stat(follow_symlinks=False)
                newest = seen.st_mtime
                files.append(seen)
            changed = max(changed, newest)
    return changed, files


def _freed(files: Iterable[os.stat_result], links: Counter[tuple[int, int]]) -> int:
    """Bytes that go with these files: one with several names goes with the last of them, or not at all."""
    freed = 0
    for file in files:
        name = (file.st_dev, file.st_ino)
        links[name] += 1
        if links[name] == file.st_nlink:
            freed += file.st_size
    return freed


# ---------------------------------------------------------------- removal


def remove(store: Store, entry: Entry) -> None:
    """Remove an entry; a folder is renamed first, so that nobody finds half of it. Raises OSError."""
    if entry.group == ".work" and not entry.path.name.startswith("."):
        _remove_work(store, entry.path.name)
    elif entry.path.is_symlink() or not entry.path.is_dir():
        entry.path.unlink(missing_ok=True)
    else:
        grave = entry.path
        if entry.group != GRAVES:
            grave = store.root / GRAVES / secrets.token_hex(8)
            grave.parent.mkdir(exist_ok=True)
            entry.path.rename(grave)
        shutil.rmtree(grave)


def _remove_work(store: Store, key: str) -> None:
    claim = try_claim(store.claim_folder(key))
    if claim is None:
        raise BlockingIOError(0, "somebody has begun to work on it")
    store.discard_work(key)
    claim.release()


# ---------------------------------------------------------------- words


def size(count: int) -> str:
    """Bytes for a reader: `512 B`, `1.3 GB`."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def age(seconds: float) -> str:
    """A time span in its largest unit: `5 min`, `3 h`, `12 d`."""
    for length, unit in ((DAY_S, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def to_text(found: Found) -> str:
    """A line for each folder of the store, below it what it holds and who made that, where this is known."""
    groups: dict[str, list[Entry]] = {}
    for entry in found.entries:
        groups.setdefault(entry.group, []).append(entry)
    lines: list[str] = []
    for group, entries in groups.items():
        lines.append(f"{group}: {len(entries)}, {size(sum(e.bytes for e in entries))}")
        lines += [_line(e) for e in entries if e.made_by or not group.startswith(".")]
    kept = [f"{counted(found.needed, 'artifact')} needed"]
    kept += [f"{found.in_use} in use by other work"] * bool(found.in_use)
    kept += [f"{found.young} too young"] * bool(found.young)
    lines.append(f"{len(found.entries)} to remove, {size(found.bytes)}; kept: {', '.join(kept)}")
    return "\n".join(lines)


def _line(entry: Entry) -> str:
    told = f"{age(time.time() - entry.changed):>6}  {size(entry.bytes):>9}  {entry.path.name[:12]}"
    return f"  {told}  {entry.made_by}".rstrip()
