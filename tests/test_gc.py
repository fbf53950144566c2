"""`alignc gc`: what no named spec needs goes; what is needed, in use or young stays; a kill does no harm."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from compiler.garbage import Found, Needs, age, find, needs_of, remove, size
from runtime.claims import try_claim
from runtime.files import write_json
from runtime.store import Store
from tests.commands import alignc, artifacts, start, tables
from tests.compiler.specs import STUDY, compile_text
from tests.specs import LIGHT

OTHER = LIGHT.replace("experiment: light", "experiment: other").replace("[0, 1]", "[1, 2]")
A, B, C = ("a" * 40, "b" * 40, "c" * 40)


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A store in which two experiments share what they can: three nodes are the second one's alone."""
    for name, text in (("light.yaml", LIGHT), ("other.yaml", OTHER)):
        (tmp_path / name).write_text(text)
        alignc("run", name, "--store", "s", cwd=tmp_path)
    return tmp_path


def sealed(store: Store, key: str, size: int = 10, kind: str = "toy") -> Path:
    out = store.work(key) / "out"
    out.mkdir(parents=True)
    (out / "data").write_bytes(b"x" * size)
    store.seal(kind, key, out, {"id": f"node-{key[0]}", "spec": {"path": "toy.yaml"}})
    store.discard_work(key)
    return store.artifact(kind, key)


def names(found: Found) -> list[str]:
    return [f"{e.group}/{e.path.name[:1]}" for e in found.entries]


# ---------------------------------------------------------------- the command


def test_what_only_the_other_spec_needs_goes(both: Path) -> None:
    before, shown = artifacts(both / "s"), tables("light.yaml", "s", both)
    assert len(before) == 11
    told = alignc("gc", "light.yaml", "--store", "s", "--dry-run", cwd=both)
    for line in ("demonstrate: 1, ", "wrong[seed=2], other", "score[seed=2], other", "labels[seed=2], other"):
        assert line in told
    assert ".logs: 3, " in told and ".experiments: 1, " in told and "kept: 8 artifacts needed" in told
    assert artifacts(both / "s") == before
    told = alignc("gc", "light.yaml", "--store", "s", "--yes", cwd=both)
    assert "removed 7 of 7\n" in told
    assert len(artifacts(both / "s")) == 8
    assert "0 to remove" in alignc("gc", "light.yaml", "--store", "s", "--yes", cwd=both)
    assert tables("light.yaml", "s", both) == shown
    assert "8 reused" in alignc("plan", "light.yaml", "--store", "s", cwd=both)


def test_all_named_specs_count(both: Path) -> None:
    assert "0 to remove" in alignc("gc", "light.yaml", "other.yaml", "--store", "s", cwd=both)
    told = alignc("gc", "light.yaml", "--store", "s", "--set", "axes.seed=[2]", "--dry-run", cwd=both)
    assert "wrong[seed=0], light" in told and "seed=2" not in told


def test_it_asks_before_it_removes(both: Path) -> None:
    told = alignc(
        "gc", "light.yaml", "--store", "s", cwd=both, code=1
    )  # no answer: the tests have no terminal
    assert "Remove it? [y/N]" in told and "Aborted" in told
    assert len(artifacts(both / "s")) == 11


def test_without_a_spec_it_refuses(both: Path) -> None:
    assert "name every spec" in alignc("gc", "--store", "s", "--yes", cwd=both, code=2)
    assert "name every spec" in alignc("gc", "light.yaml", "--all", "--store", "s", "--yes", cwd=both, code=2)
    alignc("gc", "light.yaml", "--set", "stages.score.kind=nix", "--store", "s", "--yes", cwd=both, code=2)
    assert len(artifacts(both / "s")) == 11
    alignc("gc", "--all", "--store", "s", "--yes", cwd=both)
    assert not artifacts(both / "s")


def test_an_experiment_at_work_keeps_what_it_needs(both: Path) -> None:
    store = Store(both / "s")
    keys = os.listdir(store.root / "label")
    (key,) = (k for k in keys if store.manifest("label", k)["id"] == "labels[seed=2]")
    shutil.rmtree(store.artifact("label", key))
    claim = try_claim(store.claim_folder(key))
    assert claim is not None
    told = alignc("gc", "light.yaml", "--store", "s", "--yes", cwd=both)
    assert "0 to remove" in told and "2 in use by other work" in told
    claim.release()
    told = alignc("gc", "light.yaml", "--store", "s", "--yes", cwd=both)
    assert ".work: 1, " in told and "labels[seed=2], other" in told
    assert len(artifacts(store.root)) == 8 and not os.listdir(store.root / ".work")


def test_killed_in_the_midst_every_artifact_is_whole_or_gone(both: Path) -> None:
    store, graves = Store(both / "s"), both / "s" / ".graves"
    keys = [f"{n:040x}" for n in range(20)]
    for key in keys:
        out = store.work(key) / "out"
        out.mkdir(parents=True)
        for n in range(200):
            (out / f"file{n}").touch()
        store.artifact("many", key).parent.mkdir(exist_ok=True)
        (out / "manifest.json").write_text("{}")
        out.rename(store.artifact("many", key))
        shutil.rmtree(store.work(key))
    caught = False  # a kill may come when one folder is gone and the next not yet renamed
    for _ in range(4):
        process = start("gc", "light.yaml", "--store", "s", "--yes", cwd=both)
        while process.poll() is None and not (graves.is_dir() and os.listdir(graves)):
            time.sleep(0.001)
        process.kill()
        process.communicate()
        caught = caught or bool(os.listdir(graves))
        left = len(os.listdir(store.root / "many"))
        shutil.rmtree(graves)  # so that the next one is seen to begin
        for key in os.listdir(store.root / "many"):
            assert len(os.listdir(store.artifact("many", key))) == 201
    assert left > 0 and caught
    alignc("gc", "light.yaml", "--store", "s", "--yes", cwd=both)
    assert not os.listdir(store.root / "many") and not os.listdir(graves)
    assert len(artifacts(store.root)) == 8


# ---------------------------------------------------------------- what is found


def test_a_file_with_several_names_is_counted_where_its_last_one_goes(store: Store, tmp_path: Path) -> None:
    first, second = sealed(store, A, 1000), sealed(store, B, 2000)
    os.link(first / "data", second / "same")
    os.link(second / "data", tmp_path / "elsewhere")  # its bytes stay
    found = find(store, Needs())
    manifests = [(folder / "manifest.json").stat().st_size for folder in (first, second)]
    assert [e.bytes for e in found.entries] == [manifests[0], manifests[1] + 1000]
    assert [e.bytes for e in find(store, Needs(keys=frozenset((B,)))).entries] == [manifests[0]]


def test_young_things_stay(store: Store) -> None:
    for path in (old := sealed(store, A), *old.iterdir()):
        os.utime(path, (0, time.time() - 3 * 86400))
    sealed(store, B)
    found = find(store, Needs(), keep_days=2)
    assert names(found) == ["toy/a"] and found.young == 1
    assert not find(store, Needs(), keep_days=4).entries


def test_left_overs_are_found(store: Store) -> None:
    for key in (A, B):
        sealed(store, key)
        (store.work(key) / "scratch").mkdir(parents=True)
    (store.work(C) / "scratch").mkdir(parents=True)  # needed, and not made yet: it goes on from there
    (store.root / ".work" / f".{C}.12ab").mkdir()
    (store.root / ".graves" / "x").mkdir(parents=True)
    (store.root / ".logs" / "slurm").mkdir(parents=True)
    for name in ("kept.stage-1.out", "gone.stage-1.out"):
        (store.root / ".logs" / "slurm" / name).touch()
    (store.root / ".logs" / "slurm" / "7_submission.sh").write_text("#SBATCH --job-name=kept.stage\n")
    found = find(store, Needs(frozenset((A, C)), frozenset(("kept",))))
    assert names(found) == ["toy/b", ".work/.", ".work/a", ".work/b", ".logs/g", ".graves/x"]
    for entry in found.entries:
        remove(store, entry)
    assert not find(store, Needs(frozenset((A, C)), frozenset(("kept",)))).entries
    assert store.has("toy", A) and (store.work(C) / "scratch").is_dir()


def test_states_of_trainings_and_realisations_go_with_those_who_need_them(store: Store) -> None:
    for name in (A, B):
        store.trajectory(name).mkdir(parents=True)
        write_json(store.realised(name), {"key": name})
    (store.root / "notes").mkdir()
    (store.root / "notes" / "mine.txt").touch()  # not ours
    assert names(find(store, Needs(keys=frozenset((A,)), trajectories=frozenset((A,))))) == [
        ".realised/b",
        ".trajectories/b",
    ]


def test_answers_go_only_where_one_says_so_and_nobody_works(store: Store) -> None:
    folder = store.root / ".answers" / "judge-0123"
    folder.mkdir(parents=True)
    (folder / "one.jsonl").write_text("{}\n")
    unneeded = Needs(answers=False)
    assert names(find(store, Needs())) == []
    assert names(find(store, unneeded)) == [".answers/j"]
    claim = try_claim(store.claim_folder(A))
    assert claim is not None and names(find(store, unneeded)) == []
    claim.release()
    for entry in find(store, unneeded).entries:
        remove(store, entry)
    assert not folder.exists()


def test_states_of_finished_trainings_may_go(tmp_path: Path) -> None:
    program = compile_text(tmp_path, STUDY)
    base = next(i for i in program.identities if i.recipe["kind"] == "sft")
    assert base.trajectory in needs_of([program]).trajectories
    assert base.trajectory not in needs_of([program], frozenset((base.key,))).trajectories


def test_work_that_somebody_took_up_meanwhile_stays(store: Store) -> None:
    (store.work(A) / "scratch").mkdir(parents=True)
    (entry,) = find(store, Needs()).entries
    claim = try_claim(store.claim_folder(A))
    assert claim is not None
    with pytest.raises(OSError, match="somebody has begun"):
        remove(store, entry)
    claim.release()
    remove(store, entry)
    assert not store.work(A).exists()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_340_000_000, "1.3 GB"), (10**16, "10000.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(3, "now"), (600, "10 min"), (7200, "2 h"), (1e6, "12 d")])
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text
