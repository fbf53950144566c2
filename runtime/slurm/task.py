"""Which task of Slurm this process belongs to, and which of its turns this is."""

from __future__ import annotations

import os
from collections.abc import Mapping


def slurm_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """The Slurm id of this very task. The raw id will not do: that of the last task is the whole array's."""
    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def turn(environment: Mapping[str, str] = os.environ) -> int:
    """How often Slurm has begun this task anew."""
    count = environment.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdigit() else 0
