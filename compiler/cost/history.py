"""What sealed jobs of the store tell about the next ones: speeds, start-up times, lengths of answers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from compiler.cost.amounts import Range, observed
from compiler.cost.models import size_of
from runtime.files import read_json
from runtime.job import CHOICE, DECLARED
from runtime.plural import counted
from runtime.store import Store

MOST = 50  # manifests of a kind that are read: planning stays fast however full the store is
ALIKE = 4.0  # sizes within this factor are thought to run at the same share of the peak


@dataclass(frozen=True, slots=True)
class Ran:
    """A sealed job. Of a training or sampling one, `rate` is FLOP/s of one GPU, or of one CPU core.

    `overhead_s` is what it took beside computing: start-up, reading and writing of weights.
    """

    kind: str
    wall_s: float
    device: str = ""
    parameters: float = 0.0
    rate: float = 0.0
    overhead_s: float = 0.0
    most_tokens: int = 0  # sampling: `max_new_tokens`
    new_tokens: float = 0.0  # sampling: of one row
    llm: str = ""
    requests: int = 0
    output_tokens: float = 0.0  # asking: of one reply
    decided: float | None = None  # labelling: share of pairs
    batched: bool = False  # asking: through a batch API


@dataclass(frozen=True, slots=True)
class Speed:
    """FLOP/s of one GPU or one CPU core, seconds beside computing, and how both are known.

    `observed`: seen in jobs, so that whatever else bounds the speed is in it.
    """

    rate: Range
    overhead_s: Range
    basis: str
    observed: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """Questions to a list of sealed jobs; each answer is None where there is nothing like it."""

    jobs: tuple[Ran, ...] = ()
    _memo: dict[Any, Any] = field(default_factory=dict[Any, Any], compare=False)

    def speed(self, kind: str, gpu: bool, gpu_type: str | None, parameters: float) -> Speed | None:
        """Of jobs of this kind on such a device: those of this very size, else those of a like one."""
        asked = ("speed", kind, gpu, gpu_type, parameters)
        if asked not in self._memo:
            self._memo[asked] = self._speed(kind, gpu, gpu_type, parameters)
        found: Speed | None = self._memo[asked]
        return found

    def _speed(self, kind: str, gpu: bool, gpu_type: str | None, parameters: float) -> Speed | None:
        like = [j for j in self.jobs if j.kind == kind and j.rate and _runs_on(j.device, gpu, gpu_type)]
        same = [j for j in like if abs(j.parameters / parameters - 1) < 0.1]
        near = same or [j for j in like if 1 / ALIKE <= j.parameters / parameters <= ALIKE]
        if not near:
            return None
        rate, overhead = observed([j.rate for j in near]), observed([j.overhead_s for j in near])
        return Speed(rate, overhead, _told(near, "" if same else f" of {_sizes(near)} parameters"), True)

    def new_tokens(self, most: int, parameters: float) -> tuple[Range, str] | None:
        """Tokens that a sampled row has, of jobs with the same limit and a model of the same size."""
        like = [j for j in self.jobs if j.most_tokens == most and abs(j.parameters / parameters - 1) < 0.1]
        return (observed([j.new_tokens for j in like]), _told(like)) if like else None

    def output_tokens(self, kind: str, llm: str) -> tuple[Range, str] | None:
        """Tokens of a reply of an llm to this kind of stage."""
        like = self._asked(kind, llm)
        return (observed([j.output_tokens for j in like]), _told(like)) if like else None

    def request_seconds(self, kind: str, llm: str) -> tuple[Range, str] | None:
        """Wall time that one of many requests takes, asked live."""
        like = [j for j in self._asked(kind, llm) if not j.batched]
        return (observed([j.wall_s / j.requests for j in like]), _told(like)) if like else None

    def decided(self, llm: str) -> Range | None:
        """The share of pairs on which a critic gave a preference."""
        shares = [j.decided for j in self._asked("label", llm) if j.decided is not None]
        return observed(shares).at_most(1) if shares else None

    def wall_seconds(self, kind: str) -> tuple[Range, str] | None:
        like = [j for j in self.jobs if j.kind == kind]
        return (observed([j.wall_s for j in like]), _told(like)) if like else None

    def _asked(self, kind: str, llm: str) -> list[Ran]:
        return [j for j in self.jobs if j.kind == kind and j.llm == llm and j.requests]


def llm_name(declared: Mapping[str, Any]) -> str:
    """What an llm is called in the history: equal for equal providers and models."""
    model = declared.get("model")
    if isinstance(model, Mapping):
        model = model.get("hub") or model.get("path")
    return f"{declared.get('provider')}/{model or declared.get('path') or ''}"


def _runs_on(device: str, gpu: bool, gpu_type: str | None) -> bool:
    """`cuda` is a GPU whose name nobody wrote down."""
    known = gpu and gpu_type and device != "cuda"
    return (device == "cpu") != gpu and (not known or str(gpu_type).lower() in device.lower())


def _told(jobs: Sequence[Ran], more: str = "") -> str:
    return f"history of {counted(len(jobs), 'job')}{more}"


def _sizes(jobs: Sequence[Ran]) -> str:
    from compiler.cost.words import short

    sizes = sorted({short(j.parameters) for j in jobs})
    return sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


# ---------------------------------------------------------------- reading


def read_history(store: Store, kinds: Iterable[str], first: Mapping[str, Sequence[str]]) -> History:
    """What the store's manifests tell about these kinds; at most `MOST` of each are read.

    first: kind -> keys to read before any others, those of the experiment itself.
    """
    found: list[Ran] = []
    for kind in kinds:
        own = first.get(kind, ())[-MOST:]
        others = (k for k in _keys(store, kind) if k not in set(own)) if len(own) < MOST else ()
        for key, _ in zip((*own, *others), range(MOST), strict=False):
            try:
                found += _read(store, kind, store.manifest(kind, key))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # removed meanwhile, or of another version
    return History(tuple(found))


def _keys(store: Store, kind: str) -> list[str]:
    try:
        return os.listdir(store.root / kind)
    except OSError:
        return []


def _read(store: Store, kind: str, manifest: Mapping[str, Any]) -> Iterator[Ran]:
    summary, asked = manifest["summary"], manifest["resources"]["asked"]
    wall_s = float(manifest["resources"]["used"]["wall_s"])
    cores = max(1, asked["cpus"])
    if summary.get("useful_tokens_per_s"):
        yield _trained(kind, wall_s, summary, manifest["config"], cores)
    elif summary.get("new_tokens_per_s"):
        yield _sampled(store, wall_s, summary, manifest, cores, gpu=asked["gpus"] > 0)
    elif summary.get("requests"):
        yield _answered(kind, wall_s, summary, manifest["inputs"])
    else:
        yield Ran(kind, wall_s)


def _trained(
    kind: str, wall_s: float, summary: Mapping[str, Any], config: Mapping[str, Any], cores: int
) -> Ran:
    parameters, processes = summary["parameters"], summary["processes"]
    rate = 6.0 * parameters * summary["useful_tokens_per_s"] / processes
    spent = sum(summary["seconds"].get(part, 0.0) for part in ("data", "compute"))
    if (
        kind == "dpo" and not summary["went_on_from_step"]
    ):  # the reference's forward pass, over the same tokens once
        spent += spent / 3 / max(1, config.get("epochs", 1))
    units = cores if summary["device"] == "cpu" else 1
    return Ran(kind, wall_s, summary["device"], parameters, rate / units, max(wall_s - spent, 0.1))


def _sampled(
    store: Store,
    wall_s: float,
    summary: Mapping[str, Any],
    manifest: Mapping[str, Any],
    cores: int,
    *,
    gpu: bool,
) -> Ran:
    (model,) = manifest["inputs"]["model"]
    parameters = _parameters(store, model)
    rate = 2.0 * parameters * summary["new_tokens_per_s"] / (1 if gpu else cores)
    return Ran(
        "sample",
        wall_s,
        "cuda" if gpu else "cpu",
        parameters,
        rate,
        max(wall_s - summary["seconds"], 0.1),
        most_tokens=manifest["config"]["max_new_tokens"],
        new_tokens=summary["new_tokens"] / summary["rows"],
    )


def _parameters(store: Store, model: Mapping[str, Any]) -> float:
    """Parameters of a job's input model. Raises KeyError where nobody tells."""
    if "declared" in model:
        try:
            size = size_of(DECLARED["models"].validate_python(model["declared"]))
        except ValidationError as error:
            raise KeyError("of another version") from error
        if size is None:
            raise KeyError("unknown size")
        return size.active
    kind, key = model["kind"], model["key"]
    if model["path"] == CHOICE:
        chosen = read_json(store.artifact(kind, key) / CHOICE)["chosen"]
        kind, key = chosen["kind"], chosen["key"]
    return float(store.manifest(kind, key)["summary"]["parameters"])


def _answered(kind: str, wall_s: float, summary: Mapping[str, Any], inputs: Mapping[str, Any]) -> Ran:
    told = (record for records in inputs.values() for record in records)
    declared = next(record["declared"] for record in told if record.get("section") == "llms")
    requests, pairs = summary["requests"], summary.get("pairs")
    return Ran(
        kind,
        wall_s,
        llm=llm_name(declared),
        requests=requests,
        output_tokens=summary["output_tokens"] / requests,
        decided=summary["decided"] / pairs if pairs else None,
        batched=declared.get("mode") == "batch",
    )
