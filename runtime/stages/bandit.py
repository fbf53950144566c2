"""`bandit`: imitation of a teacher against feedback on a student, where all rewards are known."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.artifacts import Port
from runtime.fields import Frozen, result
from runtime.job import Job
from runtime.stage import Resources, StageConfig, StageKind

POLICIES = ("teacher", "student", "sft", "rlaif")
METRICS = (
    *(f"{policy}_{what}" for policy in POLICIES for what in ("reward", "spread", "mode", "peak")),
    *("sft_first", "learned_range", "learned_argmin", "learned_argmax", "learned_first", "learned_last"),
)


class Bell(Frozen):
    """Probabilities in proportion to exp(-(action - mean)^2 / scale)."""

    mean: float = result(doc="its middle")
    scale: float = result(300.0, doc="twice its variance", gt=0)


class Fit(Frozen):
    """Gradient descent from 0 on the whole sample."""

    learning_rate: float = result(0.01, doc="step size", gt=0)
    steps: int = result(doc="number of steps", ge=0)


class Bandit(StageConfig):
    """One bandit of Sharma et al. 2024, Figure 6: an action's true reward is its number."""

    actions: int = result(100, doc="number of actions", ge=2)
    teacher: Bell = result(Bell(mean=80.0), doc="policy that is imitated")
    student: Bell = result(Bell(mean=40.0), doc="policy whose actions are compared, and that is improved")
    demonstrations: int = result(250_000, doc="actions of the teacher", ge=1)
    pairs: int = result(250_000, doc="pairs of the student's actions; the larger one is preferred", ge=1)
    exact: bool = result(False, doc="expectations instead of samples")
    sft: Fit = result(Fit(steps=15_000), doc="fit of a policy to the demonstrations")
    reward: Fit = result(Fit(steps=7_500), doc="fit of a reward to the preferences")
    beta: float = result(0.1, doc="RLAIF: weight of the divergence from the student", gt=0)
    seed: int = result(0, doc="seed of the samples")


def outputs(config: Bandit, inputs: Mapping[str, Port]) -> dict[str, Port]:
    return {"": Port(type="Scores", path="metrics.json", metrics=METRICS)}


def run(job: Job) -> None:
    import numpy as np

    from runtime.bandit import figure, play, scores
    from runtime.files import write_json
    from runtime.job import JobError

    played = play(job.config)
    broken = [name for name, values in played.items() if not np.isfinite(values).all()]
    if broken:
        raise JobError(
            f"{' and '.join(broken)}: no finite numbers; lower the `learning_rate` or raise `beta`"
        )
    found = scores(played)
    write_json(job.out / "metrics.json", found)
    write_json(job.out / "figure.json", figure(played))
    job.report(metrics=found)


STAGE = StageKind(
    name="bandit",
    version=1,
    config=Bandit,
    outputs=outputs,
    run=run,
    resources=Resources(minutes=15),
)
