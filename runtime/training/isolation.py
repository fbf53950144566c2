"""Proof, before the first step, that sequences laid end to end are computed as if each were alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from runtime.job import JobError
from runtime.training.batches import lay_out
from runtime.training.data import Tokens

if TYPE_CHECKING:
    from runtime.training.parallel import Backend

# Mean difference in nats a token (or in reward) from the model's own forward pass, which is fp32. A
# forgotten scale or cap of the logits is far above it.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}

_LENGTH, _PROMPT = 12, 4


def require_isolation(backend: Backend) -> None:
    """Raise JobError for a model that cannot be trained on sequences laid end to end.

    Asked are: the same bits when only the neighbours change, and the numbers that the model gives by
    itself; the latter also for two completions of one prompt. All ranks call it alike.
    """
    vocabulary = int(backend.lm.config.vocab_size)
    ours, other, another = (_tokens(step, vocabulary) for step in (7, 5, 11))
    twin = Tokens(np.concatenate([ours.ids[:_PROMPT], other.ids[_PROMPT:]]), _PROMPT)
    mode = backend.model.training
    backend.model.eval()
    try:
        alone = [_alone(backend, sequence) for sequence in (ours, twin)]
        beside, again = (_last(backend, neighbour, ours) for neighbour in (other, another))
        if not torch.equal(beside, again):
            raise JobError(_refusal("a sequence sees its neighbours"))
        if not _near(backend, alone, ours, twin):
            backend.scorer.direct = False
            if not _near(backend, alone, ours, twin):
                raise JobError(_refusal("its numbers differ from those of sequences that are alone"))
    except TypeError as error:  # an argument that the model does not know
        raise JobError(_refusal(str(error))) from error
    finally:
        backend.model.train(mode)


def _refusal(why: str) -> str:
    return f"this model cannot be trained on sequences laid end to end ({why}): set `padding: true`"


def _tokens(step: int, vocabulary: int) -> Tokens:
    return Tokens(((np.arange(_LENGTH) * step + step) % vocabulary).astype(np.int32), _PROMPT)


def _last(backend: Backend, neighbour: Tokens, sequence: Tokens) -> Tensor:
    """What is computed of a sequence behind a neighbour."""
    batch = lay_out([neighbour, sequence], whole=backend.scorer.whole)
    with torch.no_grad():
        found = backend.score(batch.to(backend.device))
    return found[int(batch.spans[0].sum()) :].float().cpu()


def _near(backend: Backend, alone: list[Tensor], ours: Tokens, twin: Tokens) -> bool:
    batch = lay_out([ours, twin], pairs=True, whole=backend.scorer.whole)
    with torch.no_grad():
        found = backend.score(batch.to(backend.device)).float().cpu()
    return float((found - torch.cat(alone)).abs().mean()) <= TOLERANCE[backend.config.precision]


def _alone(backend: Backend, sequence: Tokens) -> Tensor:
    """What the model's own forward pass and attention give."""
    backend.scorer.attend_as_made(True)
    try:
        probe = backend.probe(sequence.ids.tolist())
    finally:
        backend.scorer.attend_as_made(False)
    return backend.scorer.alone(probe, sequence)
