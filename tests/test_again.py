"""Failed nodes at the next submission: tried again as the profile says, or held back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compiler.output.describe import write_descriptions
from compiler.planning.plan import Plan, State, make_plan
from compiler.program import Program
from compiler.site.profile import Profile
from compiler.slurm.again import answers, with_asks
from compiler.slurm.queue import Look, Queued
from compiler.slurm.retry import forget_failures
from compiler.slurm.script import make_script
from compiler.watching.status import node_states
from runtime.files import write_json
from runtime.slurm.again import limits_of, write_again
from runtime.store import Store
from tests.compiler.specs import compile_text
from tests.specs import LIGHT

NODE = "wrong[seed=0]"
PLAIN = "needs prompts, not made yet"


@dataclass(slots=True)
class World:
    """A program, a store, and what Slurm says of one node's last task."""

    folder: Path
    store: Store
    program: Program
    profile: Profile
    state: str = ""

    @property
    def key(self) -> str:
        ids = [node.id for node in self.program.graph.nodes]
        return self.program.identities[ids.index(NODE)].asked

    @property
    def tasks(self) -> dict[str, Queued]:
        return {self.key: Queued("7", self.state, submitted=time.time())} if self.state else {}

    def failed(self, message: str, **more: Any) -> None:
        record = {"outcome": "failed", "message": message, "traceback": "T", "time": time.time(), **more}
        write_json(self.store.failure(self.key), record)

    def recompile(self, text: str) -> None:
        self.program = compile_text(self.folder, text)

    def plan(self, *, force: bool = False) -> Plan:
        found = answers(self.program, self.store, self.tasks, frozenset(), self.profile, force=force)
        return make_plan(with_asks(self.program, found.again), State(answers=found), on_slurm=True)

    def submit(self, *, force: bool = False) -> Plan:
        """What `submit` keeps of a plan."""
        made = self.plan(force=force)
        write_descriptions(self.store, made.program, set(made.program.keys))
        for key, again in made.again.items():
            write_again(self.store, key, again)
        return made

    def step(self, *, force: bool = False) -> tuple[str, str]:
        (found,) = [s for s in self.plan(force=force).steps if s.node.id == NODE]
        return found.action, found.why


@pytest.fixture
def world(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("PATH", str(tmp_path))  # no sinfo
    limits_of.cache_clear()
    rules = {
        "out_of_memory": {"times": 1, "memory": 2},
        "node_failure": {"times": 2, "exclude_node": True},
        "exception": {"times": 9},
    }
    return World(tmp_path, store, compile_text(tmp_path, LIGHT), Profile.model_validate({"retry": rules}))


def test_without_failures_nothing_changes(world: World) -> None:
    made = world.submit()
    assert made.program is world.program and made.again == {}
    assert world.step() == ("run", PLAIN)


def test_a_failed_node_is_submitted_with_more_memory(world: World) -> None:
    world.submit()
    world.failed("MemoryError: ")
    assert world.step() == ("run", "again with 8 GB: ran out of memory with 4")
    made = world.submit()
    assert made.program.keys == world.program.keys
    groups = {job.name: (job.resources.memory_gb, len(job.tasks)) for job in made.jobs}
    assert (groups["light.wrong.1"], groups["light.wrong.2"]) == ((8.0, 1), (4.0, 1))
    # Submitted, or killed just before that: it is the answer to the same failure, and counts once.
    assert world.step() == ("run", "again with 8 GB: ran out of memory with 4")
    world.failed("MemoryError: ")
    assert world.step()[0] == "blocked"


def test_what_is_used_up_is_held_back_with_all_that_needs_it(world: World) -> None:
    world.submit()
    world.failed("MemoryError: ")
    world.submit()
    world.failed("MemoryError: again")
    made = world.plan()
    why = "ran out of memory, and was tried again 1 time; `alignc retry` submits it all the same"
    blocked = {s.node.id: s.why for s in made.steps if s.action == "blocked"}
    needs = f"needs {NODE}, which is blocked"
    assert blocked == {NODE: why, "score[seed=0]": needs, "labels[seed=0]": needs}
    told = {s.id: s for s in node_states(world.program, world.store, Look(world.tasks))}[NODE]
    tried = "it was tried again 1 time, so `alignc retry` alone submits it"
    assert (told.phase, told.detail) == ("failed", f"ran out of memory: MemoryError: again; {tried}")
    assert world.step(force=True) == ("run", "again with 16 GB: ran out of memory with 8")
    world.submit(force=True)
    forget_failures(world.store, [world.key])
    assert world.step() == ("run", PLAIN)
    world.failed("MemoryError: once more")
    assert world.step() == ("run", "again with 32 GB: ran out of memory with 16")  # counted anew


def test_whoever_gives_it_more_need_not_ask_twice(world: World) -> None:
    world.submit()
    world.failed("MemoryError: ")
    world.submit()
    world.failed("MemoryError: ")
    assert world.step()[0] == "blocked"
    before = world.key
    world.recompile(LIGHT.replace("teacher: weak,", "teacher: weak, resources: {memory_gb: 30},"))
    assert world.key == before
    assert world.step() == ("run", PLAIN)
    sizes = {s.node.resources.memory_gb for s in world.plan().steps if s.node.stage == "wrong"}
    assert sizes == {30}


def test_a_node_that_failed_is_left_out(world: World) -> None:
    world.submit()
    claim = world.store.claim_folder(world.key)
    claim.mkdir(parents=True)
    (claim / "1").write_text('{"node": "n2"}')
    world.state = "NODE_FAIL"
    assert world.step() == ("run", "again with another node than n2: its node failed")
    made = world.plan()
    texts = {job.name: make_script(made, job, world.profile, world.store).text for job in made.jobs}
    assert {name for name, text in texts.items() if "#SBATCH --exclude=n2\n" in text} == {"light.wrong"}
    own = world.profile.model_copy(update={"options": ["--exclude=n9"]})
    (job,) = [job for job in made.jobs if job.name == "light.wrong"]
    assert "#SBATCH --exclude=n9,n2\n" in make_script(made, job, own, world.store).text


def test_the_same_traceback_three_times_is_enough(world: World) -> None:
    world.submit()
    world.failed("KeyError: 'x'", repeats=2)
    assert world.step() == ("run", "again: raised an error")
    world.failed("KeyError: 'x'", repeats=3)
    action, why = world.step()
    assert action == "blocked" and why.startswith("the same error 3 times: KeyError: 'x'; `alignc retry`")
    assert world.step(force=True)[0] == "run"
    world.profile = Profile.model_validate({})  # also where nothing was asked for
    assert world.step()[0] == "blocked"


def test_a_kind_that_the_profile_leaves_out_is_submitted_as_it_is(world: World) -> None:
    world.profile = Profile.model_validate({})
    world.submit()
    world.failed("MemoryError: ")
    assert world.step() == ("run", PLAIN) and not world.plan().again


def test_jobs_know_the_policy_where_one_was_asked_for(world: World) -> None:
    made = world.plan()
    text = make_script(made, made.jobs[0], world.profile, world.store).text
    assert 'export ALIGNC_RETRY=\'{"out_of_memory":{"times":1,' in text
    assert "ALIGNC_RETRY" not in make_script(made, made.jobs[0], Profile.model_validate({}), world.store).text


def test_no_more_than_its_partition_has(world: World) -> None:
    told = {"partition": "small", "partitions": {"small": {"memory_gb": 6}}}
    world.profile = Profile.model_validate({**told, "retry": {"out_of_memory": {"times": 2}}})
    world.submit()
    world.failed("MemoryError: ")
    assert world.submit() and world.step() == ("run", "again with 6 GB: ran out of memory with 4")
    world.failed("MemoryError: ")
    assert world.step()[1].startswith("ran out of memory with 6 GB, and may have no more")


LEGS = """\
experiment: legs
models: {tiny: {init: {hidden_size: 64}, chat: plain}}
llms: {weak: {provider: simulated}}
sources: {tasks: {kind: world, size: 40}}
stages:
  prompts: {kind: prepare, source: tasks}
  data: {kind: demonstrate, prompts: prompts, teacher: weak}
  tune: {kind: sft, model: tiny, data: data, epochs: 2, checkpoint_every: 1, learning_rate: 1e-3}
"""


def test_a_leg_whose_turn_never_came_has_not_failed(tmp_path: Path, store: Store) -> None:
    """Both legs share a task, which ended with the first."""
    program = compile_text(tmp_path, LEGS)
    ids = [node.id for node in program.graph.nodes]
    keys = {id_: program.identities[i].asked for i, id_ in enumerate(ids)}
    task = Queued("7", "NODE_FAIL", submitted=time.time())
    tasks = {keys["tune[epoch=1]"]: task, keys["tune[epoch=2]"]: task}
    done = frozenset(keys[id_] for id_ in ("prompts", "data"))
    profile = Profile.model_validate({"retry": {"node_failure": {"times": 1}}})
    first = answers(program, store, tasks, done, profile)
    assert set(first.again) == {keys["tune[epoch=1]"]}
    second = answers(program, store, tasks, done | {keys["tune[epoch=1]"]}, profile)
    assert set(second.again) == {keys["tune[epoch=2]"]}
