"""What a stage kind declares: its config, its typed inputs and outputs, its checks and its run."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.artifacts import Port
from runtime.fields import Frozen, nothing, speed

if TYPE_CHECKING:
    from runtime.job import Job


class Resources(Frozen):
    """What one job of a stage asks of the machine or the scheduler."""

    cpus: int = speed(1, doc="CPU cores; also the threads of the job's libraries", ge=1)
    gpus: int = speed(0, doc="GPUs of the job, on all its nodes together", ge=0)
    memory_gb: float = speed(4.0, doc="memory in GiB, on each node", gt=0)
    minutes: int = speed(60, doc="time limit in minutes", ge=1)
    nodes: int = speed(
        1,
        doc="nodes that the `parallel` processes and the GPUs of a training are shared out over, on Slurm",
        ge=1,
    )
    partition: str | None = nothing(None, doc="Slurm partition, where the profile's is not right")


class StageConfig(Frozen):
    """Fields that every stage has."""

    kind: str = nothing(doc="the stage kind")
    note: str | None = nothing(None, doc="a remark for readers; changes nothing")
    resources: Resources | None = nothing(None, doc="overrides the kind's default resources")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong that only this stage kind can see. `field` is the config key to point at."""

    code: str
    field: str
    message: str
    hint: str = ""


def no_problems(config: Any, inputs: Mapping[str, Port]) -> Iterable[Problem]:
    return ()


def shared_out(kind: StageKind, config: StageConfig) -> Iterable[Problem]:
    """What keeps a job from being shared out evenly over the nodes that it asks for."""
    asked = config.resources or kind.resources
    if asked.nodes == 1:
        return
    parallel = getattr(config, "parallel", None)
    if parallel is None:
        message = f"`{kind.name}` has no `parallel` processes to share out over {asked.nodes} nodes"
        yield Problem("AC321", "resources", message, "leave `nodes` out")
    elif parallel.processes % asked.nodes:
        message = f"{parallel.processes} processes cannot be shared out evenly over {asked.nodes} nodes"
        yield Problem(
            "AC321",
            "resources",
            message,
            "make `processes` of `parallel`, their total, a multiple of `nodes`",
        )
    elif asked.gpus % asked.nodes:
        message = f"{asked.gpus} GPUs cannot be shared out evenly over {asked.nodes} nodes"
        yield Problem("AC321", "resources", message, "make `gpus`, their total, a multiple of `nodes`")


def no_templates(config: Any, inputs: Mapping[str, Port]) -> Iterable[str]:
    return ()


class Leg(NamedTuple):
    """One checkpoint of a run: the axes that tell it apart, its config, and the segment it belongs to."""

    axes: Mapping[str, str | int | float | bool]
    config: StageConfig
    segment: int = 0


def whole(config: StageConfig) -> Sequence[Leg]:
    """A run that keeps nothing but its result."""
    return (Leg({}, config),)


def alone(name: str, body: dict[str, Any], swept: frozenset[str]) -> dict[str, dict[str, Any]]:
    """A sweep whose points have no work in common."""
    return {name: body}


def keep(name: str, body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """No shorthand: the stage stays as written."""
    return {name: body}


@dataclass(frozen=True, slots=True)
class StageKind:
    """One stage kind. `version` is raised when the same recipe would give another result.

    outputs: (config, input ports) -> output name -> port; the empty name is the only or main one.
    run: does the work; reads `job.inputs`, writes below `job.out`.
    check: problems that need the inputs' types (same arguments as `outputs`).
    templates: templates that shape the result, as paths below templates/ (same arguments); their
        text is part of the recipe.
    share: takes work that all points of a sweep share out into stages of its own: (name, body, swept keys)
        -> bodies by name, as `expand` gives them.
    prefix: a config field that says how far a run goes (`epochs`): runs that differ in it alone take the
        same steps, so that a longer one goes on from where a shorter one ended.
    legs: the legs of a run, one for each checkpoint that is kept, each with the axes that it adds and its
        own config; each is a node of its own, and together they are one run.
    preload: slow modules that `run` imports; a runner may import them once, before it forks jobs.
    expand: rewrites a shorthand into several stages, name -> body; bodies are mappings as written.
    shorthand: the keys that `expand` takes beside the config's; those required stand in for the config's.
    """

    name: str
    version: int
    config: type[StageConfig]
    outputs: Callable[[Any, Mapping[str, Port]], dict[str, Port]]
    run: Callable[[Job], None]
    check: Callable[[Any, Mapping[str, Port]], Iterable[Problem]] = no_problems
    expand: Callable[[str, dict[str, Any]], dict[str, dict[str, Any]]] = keep
    shorthand: type[Frozen] | None = None
    templates: Callable[[Any, Mapping[str, Port]], Iterable[str]] = no_templates
    resources: Resources = Resources()
    share: Callable[[str, dict[str, Any], frozenset[str]], dict[str, dict[str, Any]]] = alone
    prefix: str = ""
    legs: Callable[[Any], Sequence[Leg]] = whole
    preload: tuple[str, ...] = ()


ENTRY_POINTS = "alignc.stages"
TORCH = ("torch", "transformers", "accelerate", "runtime.training.warm")


@cache
def stage_kinds() -> Mapping[str, StageKind]:
    """Every stage kind by name: the modules of `runtime.stages`, each with a `STAGE`."""
    package = importlib.import_module("runtime.stages")
    modules = (
        importlib.import_module(f"runtime.stages.{m.name}") for m in pkgutil.iter_modules(package.__path__)
    )
    return {module.STAGE.name: module.STAGE for module in modules}


@cache
def _foreign_kinds() -> Mapping[str, StageKind]:
    return {entry.name: entry.load() for entry in entry_points(group=ENTRY_POINTS)}


def stage_kind(name: str) -> StageKind | None:
    """The kind called `name`, also from other packages; None where there is none.

    Other packages' entry points are read only for a name we do not know: the look-up costs
    more than everything else at start-up.
    """
    return stage_kinds().get(name) or _foreign_kinds().get(name)


def kind_names() -> list[str]:
    return sorted({*stage_kinds(), *_foreign_kinds()})


def installed_kinds() -> list[StageKind]:
    """Every stage kind, also of other packages, by name."""
    return [kind for name in kind_names() if (kind := stage_kind(name))]
