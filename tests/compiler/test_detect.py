"""What Slurm prints, odd forms included, and the drafts of profiles that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.site.detect import draft
from compiler.site.facts import Site, parse_gpus, parse_partitions, read_site
from compiler.site.profile import load_profile
from runtime.slurm.limits import parse_minutes
from tests.golden import check_golden


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("UNLIMITED", None),
        ("infinite", None),
        ("n/a", None),
        ("", None),
        ("1-00:00:00", 1440),
        ("7-12:30:00", 10830),
        ("2-12", 3600),
        ("01:00:00", 60),
        ("30:00", 30),
        ("90", 90),
        ("what", None),
    ],
)
def test_time_limits(text: str, minutes: int | None) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("(null)", (0, "")),
        ("gpu:4", (4, "")),
        ("gpu", (1, "")),
        ("gpu:a100:4(S:0-1)", (4, "a100")),
        ("gpu:a100:4(S:0,2),mps:200", (4, "a100")),
        ("gpu:a100:2(S:0),gpu:v100:6(S:1)", (8, "v100")),
        ("gpu:a100_1g.5gb:7", (7, "a100_1g.5gb")),
        ("gpu:tesla:no_consume:2", (2, "tesla")),
        ("craynetwork:4", (0, "")),
    ],
)
def test_gpus_of_a_node(text: str, gpus: tuple[int, str]) -> None:
    assert parse_gpus(text) == gpus


PARTITIONS = """\
PartitionName=short AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A MaxNodes=2 MaxTime=01:00:00 RootOnly=NO OverSubscribe=EXCLUSIVE State=UP TotalCPUs=64 TotalNodes=4
PartitionName=gpu AllowGroups=ALL AllowAccounts=ALL AllowQos=normal,gpu Default=YES QoS=N/A MaxNodes=UNLIMITED MaxTime=2-00:00:00 RootOnly=NO State=UP TotalNodes=3
PartitionName=1080 AllowAccounts=vision,robots AllowQos=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP TotalNodes=1
PartitionName=owners AllowAccounts=physics AllowQos=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP
PartitionName=old AllowAccounts=ALL AllowQos=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=INACTIVE
PartitionName=empty AllowAccounts=ALL AllowQos=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP
"""  # noqa: E501
NODES = """\
short|4|16|64000|(null)
gpu|1|64|1031000|gpu:h100:8(S:0-1)
gpu|2|32|515000|gpu:a100:4(S:0-1)
1080|1|12|128000+|gpu:4
owners|2|16|64000|(null)
old|9|8|32000|(null)
"""
ANSWERS = {
    "scontrol --oneliner show partition": PARTITIONS,
    "sinfo": NODES,
    "scontrol show config": "Configuration data\nClusterName             = ice\nSLURM_VERSION   = 23.11.4\n",
    "sacctmgr -nP show assoc": "lab||normal,gpu\nvision|1080|normal\n",
    "sacctmgr -nP show user": "lab\n",
}


def site(**changed: str | None) -> Site:
    answers = {**ANSWERS, **{name.replace("_", " "): text for name, text in changed.items()}}

    def ask(*words: str) -> str | None:
        return next((text for call, text in answers.items() if " ".join(words).startswith(call)), None)

    found = read_site(ask)
    assert found is not None
    return found


def test_golden_draft_of_a_profile_that_can_be_read(tmp_path: Path) -> None:
    text = draft(site())
    check_golden("detect/site.yaml", text)
    (tmp_path / "site.yaml").write_text(text)
    profile = load_profile("site.yaml", tmp_path / "spec.yaml")
    assert profile.account == "lab" and list(profile.partitions) == ["gpu", "short", "1080"]
    assert profile.partitions["gpu"].gpu_type == "h100" and profile.partitions["short"].nodes == 2
    assert [p.whole_nodes for p in profile.partitions.values()] == [False, True, False]


def test_without_accounting_and_without_usable_partitions(tmp_path: Path) -> None:
    text = draft(site(sinfo="", **{"sacctmgr_-nP_show_assoc": None}))
    assert "accounting tells of none" in text and "partitions: {}" in text and "it has no nodes" in text
    (tmp_path / "site.yaml").write_text(text)
    assert load_profile("site.yaml", tmp_path / "spec.yaml").partitions == {}


def test_slurm_that_does_not_answer() -> None:
    assert read_site(lambda *words, **named: None) is None


def test_what_a_partition_has_is_what_its_largest_node_has() -> None:
    found = parse_partitions(PARTITIONS, NODES)["gpu"].described()
    assert (found.max_minutes, found.nodes, found.cpus, found.gpus) == (2880, 3, 64, 8)
    assert found.memory_gb == 1006.8
