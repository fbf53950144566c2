"""The signals by which a job is asked to stop."""

from __future__ import annotations

import signal

# From Slurm, as `--signal` asks: the time limit is near, or a more urgent job wants the nodes.
WARNING = signal.SIGUSR2
STOPS = (signal.SIGTERM, signal.SIGINT, WARNING)
# What was heard while the job in hand was being finished: no other one is begun.
HEARD: list[int] = []
