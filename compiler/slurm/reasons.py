"""Slurm's words in English: why a task waits, and how one ended. What is not known is told as it is."""

from __future__ import annotations

WAITS = {
    "Priority": "jobs of higher priority go first",
    "Resources": "waits for free resources",
    "Dependency": "waits for earlier jobs",
    "DependencyNeverSatisfied": "waits for a job that failed, for ever: cancel it and submit again",
    "BeginTime": "starts at a set time, or after a requeue",
    "JobArrayTaskLimit": "as many tasks of its array run as may at once",
    "JobHeldUser": "held by its user: `scontrol release` lets it go",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "requeued too often, and held: `scontrol release` lets it go",
    "launch failed requeued held": "did not start, and is held: `scontrol release` lets it go",
    "PartitionTimeLimit": "asks for more time than its partition allows: it will never start",
    "PartitionNodeLimit": "asks for more nodes than its partition has: it will never start",
    "PartitionDown": "its partition takes jobs, and starts none now",
    "PartitionInactive": "its partition takes no jobs",
    "BadConstraints": "no node has what it asks for: it will never start",
    "ReqNodeNotAvail": "the nodes that it needs are down, or reserved",
    "NodeDown": "a node that it needs is down",
    "Reservation": "waits for its reservation",
    "Licenses": "waits for a licence",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "Cleaning": "is being cleaned up before it starts again",
    "Prolog": "its nodes are being prepared",
}
# What the names of limits end in, after `QOS` or `Assoc` or `AssocGrp` ...
LIMITS = {
    "Minutes": "its share of hours is used up",
    "WallDurationPerJob": "asks for more time than a job may have",
    "JobsPerUser": "as many of your jobs run as may at once",
    "JobsPerAccount": "as many jobs of the account run as may at once",
    "SubmitJobPerUserLimit": "as many of your jobs are queued as may be",
    "JobsLimit": "as many jobs run as may at once",
    "GRES": "as many GPUs are in use as may be at once",
    "Cpu": "as many CPUs are in use as may be at once",
    "CPU": "as many CPUs are in use as may be at once",
    "Mem": "as much memory is in use as may be at once",
    "Node": "as many nodes are in use as may be at once",
}
ENDS = {
    "BOOT_FAIL": "a node did not start",
    "CANCELLED": "cancelled by a person or an administrator",
    "COMPLETED": "ended well, but what it made is not there",
    "DEADLINE": "it could not end before its deadline",
    "FAILED": "it ended with an error",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it used more memory than it had asked for",
    "PREEMPTED": "it made way for a job of higher priority",
    "REVOKED": "it was moved to another cluster",
    "TIMEOUT": "it reached its time limit",
}


def waits(reason: str) -> str:
    """Why a task waits; empty where Slurm gives no reason."""
    word = reason.strip("()").partition(",")[0].strip()
    if word in ("", "None", "N/A"):
        return ""
    if word in WAITS:
        return WAITS[word]
    if word.startswith(("QOS", "Assoc")):
        found = next((text for part, text in LIMITS.items() if part in word), "a limit is reached")
        return f"{found} ({word})"
    return word


def ends(state: str) -> str:
    return ENDS.get(state, state.lower())
