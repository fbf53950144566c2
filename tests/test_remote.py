"""Commands on a login host, from a machine that has no Slurm: against a real sshd, and a real cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compiler.errors import SpecError, UsageError
from compiler.program import compile_spec
from compiler.remote import errand as remote
from compiler.remote.errand import site_of
from compiler.remote.login import Login, Mirror, in_shell
from compiler.remote.parcel import Parcel, parcel
from compiler.remote.ssh import Host
from runtime import __version__
from tests.commands import alignc, artifacts
from tests.conftest import Cluster
from tests.golden import check_golden
from tests.slurm.test_submit import wait_for
from tests.sshd import LoginHost, login_host

ROOT = Path(__file__).parent.parent
LOGIN = Login(host="me@login.site.org", folder="~/my studies", options=["-J", "gate"])

# Reads a file, a folder and an include that stand beside it, and a file that is on the host only.
STUDY = """\
experiment: study
include: [../common/llms.yaml]
sources:
  tasks: {kind: jsonl, path: ../data/tasks.jsonl, answer: answer}
  more: {kind: datasets, path: ../data/more}
  there: {kind: jsonl, path: HOST/there.jsonl}
  unused: {kind: jsonl, path: gone.jsonl}
stages:
  prompts: {kind: prepare, source: tasks}
  more_prompts: {kind: prepare, source: more}
  there_prompts: {kind: prepare, source: there}
  right: {kind: demonstrate, prompts: prompts, teacher: strong}
  wrong: {kind: demonstrate, prompts: prompts, teacher: weak}
  score: {kind: evaluate, completions: wrong, reference: right, evaluator: strong}
tables:
  main: {rows: {Weak: score}, columns: [win_rate],
         published: {file: old.csv, row: name, columns: {win_rate: {}}}}
"""
LLMS = "llms:\n  strong: {provider: simulated}\n  weak: {provider: simulated, knows: [copy]}\n"


def write_study(home: Path, there: str = "/scratch") -> Path:
    """A study in a home folder; returns the folder to call alignc from."""
    files = {
        "study/specs/study.yaml": STUDY.replace("HOST", there),
        "study/specs/old.csv": "name,win_rate,standard_error\nWeak,1.0,0.5\n",
        "study/common/llms.yaml": LLMS,
        "study/data/tasks.jsonl": '{"prompt": "Copy: abc", "answer": "abc"}\n' * 3,
        "study/data/more/part.jsonl": '{"prompt": "Copy: b"}\n',
        "study/data/more/.hidden": "",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return home / "study"


# ---------------------------------------------------------------- places and words


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("~/studies", '"$HOME"/studies'),
        ("~/my studies/$x", "\"$HOME\"/'my studies/$x'"),
        ("/scratch/me", "/scratch/me"),
        ("alignc", "alignc"),
        ("a;b", "'a;b'"),
    ],
)
def test_paths_in_the_hosts_shell(text: str, word: str) -> None:
    assert in_shell(text) == word


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "a;b", "", "me@host:x", "@host"])
def test_hosts_that_ssh_might_take_for_something_else(host: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(json.dumps({"login": {"host": host}}))
    with pytest.raises(UsageError, match="a host is one word that ssh takes"):
        site_of("site.yaml", str(tmp_path / "spec.yaml"))
    if "@" in host:
        with pytest.raises(UsageError, match="is no login host"):
            site_of(host, "spec.yaml")


def test_what_names_a_login_host(tmp_path: Path) -> None:
    spec = str(tmp_path / "spec.yaml")
    (tmp_path / "plain.yaml").write_text("partition: gpu\n")
    (tmp_path / "site.yaml").write_text("login: {host: me@a.org, folder: studies}\n")
    assert site_of("plain.yaml", spec) is None
    site = site_of("site.yaml", spec)
    assert site and site.login.folder == "~/studies" and site.profile == str(tmp_path / "site.yaml")
    bare = site_of("me@a.org", spec)
    assert bare and (bare.login.host, bare.login.folder, bare.profile) == ("me@a.org", "~/alignc", None)


def test_places_below_the_home_folder_or_below_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    mirror = Mirror.of("/home/me/a", "/home/me/a/specs/x.yaml")
    assert mirror.place("/home/me/a/specs/x.yaml") == "a/specs/x.yaml"
    assert mirror.place("/home/me") == "."
    with pytest.raises(UsageError, match="/home/men/x cannot be copied, since it lies outside /home/me"):
        mirror.place("/home/men/x")
    assert Mirror.of("/home/me/a", "/data/x.yaml").place("/home/me/a") == "home/me/a"


def test_command_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a study").mkdir()
    monkeypatch.chdir(tmp_path / "a study")
    host = Host(LOGIN, Mirror((str(tmp_path),)), ("ssh", *LOGIN.options, "-o", "ControlPath=/tmp/x/s"))
    lines = [
        host.line(host.script("specs/x.yaml", ["status", "--select=tune[seed=0]", "--", "specs/x.yaml"])),
        host.rsync(["rsync", "-rt"], ["/home/me/./a study/specs/x.yaml", "me@login.site.org:./"]),
    ]
    check_golden("remote_command_lines.txt", "".join("\n  ".join(line) + "\n" for line in lines))


# ---------------------------------------------------------------- what is copied


def test_what_a_spec_reads_beside_it_is_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    monkeypatch.chdir(folder)
    assert parcel(compile_spec("specs/study.yaml", elsewhere=True)) == Parcel(
        texts=tuple(f"{folder}/{name}" for name in ("specs/study.yaml", "common/llms.yaml", "specs/old.csv")),
        data=tuple(f"{folder}/data/{name}" for name in ("tasks.jsonl", "more")),
    )
    (folder / "other.jsonl").touch()  # a path of the command line is seen from the current folder
    found = parcel(compile_spec("specs/study.yaml", ["sources.tasks.path=other.jsonl"], elsewhere=True))
    assert f"{folder}/other.jsonl" in found.data and f"{folder}/data/tasks.jsonl" not in found.data


def test_data_that_is_not_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(write_study(tmp_path))
    with pytest.raises(
        SpecError, match=r"AC501: \S+/gone.jsonl is not there(?s:.)*a relative path is copied"
    ):
        parcel(compile_spec("specs/study.yaml", ["sources.tasks.path=gone.jsonl"], elsewhere=True))
    for folder in ("../data/..", "../../../../../../../../.."):
        shutil.copy("specs/study.yaml", "specs/wide.yaml")
        text = Path("specs/study.yaml").read_text().replace("../data/more", folder)
        Path("specs/wide.yaml").write_text(text)
        with pytest.raises(UsageError, match="is not copied, since the spec is in it"):
            parcel(compile_spec("specs/wide.yaml", elsewhere=True))


def test_mistakes_are_told_before_the_host_is_asked(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    words = ("submit", "specs/study.yaml", "--cluster", "me@host.invalid")
    told = alignc(*words, "--set", "stages.wrong.teacher=nobody", cwd=folder, code=2)
    assert "error AC301" in told and "host.invalid" not in told
    told = alignc(*words, cwd=folder, code=2, PATH="/nowhere")
    assert "`ssh` is not on this machine" in told


# ---------------------------------------------------------------- a login host


@dataclass(frozen=True, slots=True)
class Laptop:
    """A home folder with a study in it, and a profile `mysite` that leads to a login host."""

    home: Path
    host: LoginHost
    there: Path

    @property
    def folder(self) -> Path:
        return self.home / "study"

    def alignc(self, *words: str, code: int = 0, **environment: str) -> str:
        return alignc(*words, cwd=self.folder, code=code, **environment)

    def login(self, **fields: object) -> None:
        """Write the profile, with these fields of `login` instead of the right ones."""
        right = {"host": "mysite", "folder": str(self.there), "alignc": str(self.host.alignc)}
        login = {**right, "options": self.host.options, **fields}
        path = self.home / ".config/alignc/clusters/mysite.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"login": login, "partition": "main", "setup": ["date"]}))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginHost]:
    with login_host(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture
def laptop(host: LoginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch/there.jsonl").write_text('{"prompt": "Copy: c"}\n')
    write_study(tmp_path / "home", str(tmp_path / "scratch"))
    made = Laptop(tmp_path / "home", host, tmp_path / "on the host")
    host.install(PYTHONPATH=str(ROOT))
    made.login()
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.chdir(made.folder)
    return made


PLAN = ("plan", "specs/study.yaml", "--cluster", "mysite")


@pytest.mark.ssh
def test_a_plan_is_made_there_on_a_copy(laptop: Laptop) -> None:
    before = laptop.host.logins()
    words = (*PLAN, "--nodes", "--select", "+score", "--set", "stages.right.seed='1'", "--format", "json")
    told = laptop.alignc(*words, OPENAI_API_KEY="secret")
    copy = laptop.there / "study"
    assert "copying study/data/tasks.jsonl, study/data/more/part.jsonl (145 B) to mysite\n" in told
    assert "study/common/llms.yaml and 2 more" in told
    assert laptop.host.called() == [
        "plan --cluster=../.config/alignc/clusters/mysite.yaml --format=json --nodes "
        r"--set=stages.right.seed=\'1\' --select=+score -- specs/study.yaml"
    ]
    assert laptop.host.logins() == before + 1  # for all of it
    assert "secret" not in (laptop.host.folder / "environment").read_text()
    files = {str(p.relative_to(laptop.there)) for p in laptop.there.rglob("*") if p.is_file()}
    assert files == {
        ".config/alignc/clusters/mysite.yaml",
        "study/common/llms.yaml",
        "study/data/more/part.jsonl",
        "study/data/tasks.jsonl",
        "study/specs/old.csv",
        "study/specs/study.yaml",
    }
    profile = json.loads((laptop.there / ".config/alignc/clusters/mysite.yaml").read_text())
    assert profile == {"partition": "main", "setup": ["date"]}

    assert "cop" not in laptop.alignc(*PLAN)  # nothing is new
    (copy / "data/more/other.jsonl").touch()
    told = laptop.alignc(*PLAN, code=2)
    assert "a folder of data has more on mysite than here" in told
    assert "remove study/data/more/other.jsonl" in told


def plan_there() -> int:
    """`alignc plan specs/study.yaml --cluster mysite`, without starting another process for it."""
    site = site_of("mysite", "specs/study.yaml")
    assert site
    return remote.carry_out(remote.Errand("plan", "specs/study.yaml"), site, print)


@pytest.mark.ssh
def test_large_data_is_not_copied_unasked(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "LARGE", 100)
    with pytest.raises(UsageError, match=r"\(145 B\) are more than is copied unasked") as refused:
        plan_there()
    assert os.system(str(refused.value).splitlines()[-1]) == 0  # as the message says
    assert plan_there() == 0
    assert "copying" not in capfd.readouterr().out


@pytest.mark.ssh
def test_what_is_wrong_with_a_host_is_told(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    laptop.login(options=[*laptop.host.options, "-p", "1"])
    with pytest.raises(UsageError, match=r"mysite cannot be reached; `ssh -F \S+ -p 1 mysite` has to"):
        plan_there()
    laptop.login(alignc="~/no/such/alignc")
    with pytest.raises(UsageError, match="`~/no/such/alignc` does not run on mysite; install it there"):
        plan_there()
    other = script(tmp_path / "other", "echo Welcome; echo alignc, version 0.0.9")
    laptop.login(alignc=str(other))
    with pytest.raises(UsageError, match=r"alignc is 0\.0\.9 on mysite, and"):
        plan_there()
    laptop.login()
    monkeypatch.setenv("PATH", f"{script(tmp_path / 'bin/rsync', 'exit 20').parent}:{os.environ['PATH']}")
    with pytest.raises(UsageError, match=r"copying to mysite failed \(exit code 20 of rsync\); nothing was"):
        plan_there()
    told = laptop.alignc("status", "specs/study.yaml", "--cluster", "mysite", code=2)
    assert "specs/study.yaml was never copied to mysite; `alignc submit` does that" in told
    assert laptop.host.called() == [] and not laptop.there.exists()


# What is typed here -> what is called there; copying is left to the other tests.
TYPED = {
    "status --watch specs/study.yaml": "status --watch -- specs/study.yaml",
    "status --nodes -s tune[seed=0] -s $HOME specs/study.yaml": (
        r"status --nodes --select=tune\[seed=0\] --select=\$HOME -- specs/study.yaml"
    ),
    "logs -f -n 5 ../study/specs/study.yaml prompts right": (
        "logs --lines=5 --follow -- specs/study.yaml prompts right"
    ),
    "cancel specs/study.yaml --yes --store /scratch/me/s -- -x": (
        "cancel --yes --store=/scratch/me/s -- specs/study.yaml -x"
    ),
    "submit plan.json": "submit -- plan.json",
}


@pytest.mark.ssh
def test_a_command_arrives_as_it_was_typed(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a connection that the user's ssh keeps open: nobody is asked to log in again."""
    stub = f'[ $1 = --version ] && exec echo alignc, version {__version__}; printf "%q " "$@"; exit 7'
    (laptop.there / "study/specs").mkdir(parents=True)
    for name in ("specs/study.yaml", "plan.json"):
        (laptop.there / "study" / name).touch()
    kept = ["-o", f"ControlPath={laptop.host.folder}/kept"]
    laptop.login(alignc=str(script(laptop.home / "stub", stub)), options=[*laptop.host.options, *kept])
    ssh = ["ssh", *laptop.host.options, *kept, "mysite"]
    monkeypatch.setenv("ALIGNC_STORE", "/this/machine")
    before = laptop.host.logins()
    subprocess.run([*ssh, "-o", "ControlMaster=yes", "-o", "ControlPersist=600", "true"], check=True)
    try:
        for typed, called in TYPED.items():
            command, *words = typed.split(" ")
            told = laptop.alignc(command, "--cluster", "mysite", *words, code=7)
            assert told.strip() == called
    finally:
        subprocess.run([*ssh, "-O", "exit"], check=True)
    assert laptop.host.logins() == before + 1


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def squeezed(text: str, there: Path) -> str:
    """Without what differs between machines: places on the host, numbers of jobs, bytes."""
    text = re.sub(r"job \d+|\([\d.]+ k?B\)", "#", text.replace(str(there), "/scratch/me/studies"))
    return " ".join(text.split())


@pytest.mark.ssh
@pytest.mark.slurm
def test_the_page_is_true(slurm: Cluster, laptop: Laptop) -> None:
    """From a laptop to a real cluster and back, as docs/remote.md tells it."""
    laptop.host.install(PYTHONPATH=str(ROOT), SLURM_CONF=str(slurm.conf))
    there = laptop.there / "study"
    spec = laptop.folder / "specs/study.yaml"  # without the source that a job takes seconds to load
    spec.write_text(spec.read_text().replace("source: more}", "source: there}"))
    page = (ROOT / "docs/remote.md").read_text()
    for block in page.partition("```console\n")[2].partition("```")[0].split("$ alignc ")[1:]:
        command, *shown = block.strip().splitlines()
        printed = squeezed(laptop.alignc(*shlex.split(command)), laptop.there)
        for line in shown:
            assert squeezed(line, laptop.there) in printed, f"{command}: {line}\nis not in: {printed}"
        if command.startswith("submit"):
            again = laptop.alignc(*shlex.split(command))  # as after a lost connection
            assert "nothing to submit: " in again and "cop" not in again
            assert set(wait_for("specs/study.yaml", ".alignc", there).values()) == {"done"}
    assert len(artifacts(there / ".alignc")) == 5 and not (laptop.folder / ".alignc").exists()
    here, made = laptop.folder / "paper/tables", there / "results/study"
    files = sorted(p.name for p in made.iterdir())
    assert "main.csv" in files and sorted(p.name for p in here.iterdir()) == files
    assert all((here / name).read_bytes() == (made / name).read_bytes() for name in files)
