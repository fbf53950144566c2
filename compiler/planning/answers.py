"""What the policy of a profile answers to failed jobs, as a plan takes it (see `compiler.slurm.again`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # few plans have any, and all wait for what they import
    from runtime.slurm.policy import Again


@dataclass(frozen=True, slots=True)
class Answers:
    """By key: what the next try has, and why, in words; and why there is none."""

    again: Mapping[str, Again] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)


NO_ANSWERS = Answers()
