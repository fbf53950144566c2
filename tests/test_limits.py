"""What Slurm tells of its limits, as it prints it, and what follows from that."""

from __future__ import annotations

import pytest

from runtime.slurm.limits import Place, bounds, configuration, known_tasks, max_array_size

CONFIG = """\
Configuration data as of 2026-11-21T07:54:20
AccountingStorageEnforce = associations,limits,qos
ClusterName             = alignc
MaxArraySize            = 1001
MaxJobCount             = 10000
MinJobAge               = 300 sec
"""
# Account team is a part of lab; user ann has a stricter association for the partition gpu.
OWN = "team|ann|||7||\nroot|ann|||||\nteam|ann|gpu|5|3|fast|\n"
ACCOUNTS = "root||||||\nlab|||50|7||root\nteam||||7||lab\nother||||7||lab\n"
TASKS = """\
12;0;ann;team;normal;main;RUNNING;alignc:0a1b;
12;1;ann;team;normal;main;PENDING;(null);
13;N/A;bob;other;fast;main;PENDING;one;two;
14;N/A;ann;team;normal;main;COMPLETED;a comment
of two lines;
"""


def answers(*words: str) -> str | None:
    told = " ".join(words)
    for part, answer in {
        "show config": CONFIG,
        "squeue": TASKS,
        "show partition gpu": "PartitionName=gpu\n   AllowGroups=ALL QoS=dear\n",
        "show partition main": "PartitionName=main\n   AllowGroups=ALL QoS=N/A\n",
        "show user ann": "team\n",
        "user=ann": OWN,
        "user=": ACCOUNTS,
        "name=normal": "normal|8||9\n",
        "name=fast": "fast||4|\n",
        "name=dear": "dear|6||\n",
    }.items():
        if part in told:
            return answer
    raise AssertionError(told)


def limits(place: Place, config: str = CONFIG) -> dict[str, tuple[int, int]]:
    settings = configuration(lambda *_: config)
    found = bounds(place, known_tasks(answers) or [], settings, "ann", answers)
    return {bound.name: (bound.most, bound.used) for bound in found}


SITE = {"MaxJobCount of the cluster": (9999, 4)}
LAB = {"MaxSubmitJobs of account team": (7, 2), "GrpSubmitJobs of account lab": (50, 3)}
CASES = {
    "the default account and QOS": (
        Place(),
        {
            **SITE,
            **LAB,
            "GrpSubmitJobs of QOS normal": (8, 2),
            "MaxSubmitJobsPerUser of QOS normal": (9, 2),
        },
    ),
    "an association of a partition": (
        Place(partition="gpu"),
        {
            **SITE,
            **LAB,
            "MaxSubmitJobs of account team": (3, 2),
            "GrpSubmitJobs of ann in team": (5, 2),
            "MaxSubmitJobsPerAccount of QOS fast": (4, 0),
            "GrpSubmitJobs of QOS dear": (6, 0),
        },
    ),
    "an account that the user is not in": (Place(account="moon"), SITE),
}


@pytest.mark.parametrize("name", CASES)
def test_limits_on_tasks_in_the_queue(name: str) -> None:
    place, expected = CASES[name]
    assert limits(place) == expected


def test_limits_that_are_not_enforced_or_not_told_bound_nothing() -> None:
    assert limits(Place(), "AccountingStorageEnforce = associations\n") == {}
    assert configuration(lambda *_: None) == {} and max_array_size({}) is None
    assert known_tasks(lambda *_: None) is None


def test_arrays_may_have_as_many_tasks_as_slurm_says() -> None:
    assert max_array_size(configuration(answers)) == 1001


def test_comments_may_hold_the_separator() -> None:
    assert [task.comment for task in known_tasks(answers) or []][2] == "one;two"
