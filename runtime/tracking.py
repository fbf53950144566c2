"""What the spec's section `tracking` asks for: curves of trainings that other programs show."""

from __future__ import annotations

from typing import Literal

from runtime.fields import Frozen, nothing


class Wandb(Frozen):
    """Runs of Weights & Biases. Its API key is read from WANDB_API_KEY or ~/.netrc, never from a spec."""

    project: str = nothing(doc="project that the runs belong to", min_length=1)
    entity: str | None = nothing(None, doc="user or team; none: the account's own")
    mode: Literal["online", "offline"] = nothing(
        "online", doc="`offline`: write files only, to be sent later by `wandb sync`"
    )


class Tracking(Frozen):
    """Programs that shall show trainings as they run."""

    tensorboard: str | None = nothing(
        None, doc="folder of TensorBoard's event files; relative: to `.tracking` in the store", min_length=1
    )
    wandb: Wandb | None = nothing(None, doc="Weights & Biases")
