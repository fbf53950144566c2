"""What commands share: the options of those that read a spec, and the steps from there to a plan."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from compiler.errors import UsageError, render

if TYPE_CHECKING:
    from compiler.cost.amounts import Costs
    from compiler.cost.budget import Held
    from compiler.planning.plan import Plan
    from compiler.planning.promise import Arguments
    from compiler.program import Program
    from compiler.site.profile import Profile
    from compiler.slurm.queue import Look
    from runtime.results.everything import Results
    from runtime.slurm.submission import Made
    from runtime.store import Store


def store_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--store`, for every command that looks into one."""
    return click.option(
        "--store",
        "store_path",
        envvar="ALIGNC_STORE",
        default=".alignc",
        show_default=True,
        metavar="DIR",
        help="Where artifacts are kept (also ALIGNC_STORE).",
        type=click.Path(file_okay=False),
    )(function)


def set_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--set`, for every command that compiles a spec."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="A.B=C",
        help="Override a value of the spec; the value is YAML. May be given several times.",
    )(function)


def on_spec(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options of every command that reads a spec."""
    argument = click.argument("spec", type=click.Path(dir_okay=False))
    return set_option(store_option(argument(function)))


def cluster_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--cluster`, for every command that can be carried out on a login host (see `go_to_login`)."""
    text = (
        "Cluster profile: a name in specs/clusters, or a file. With `login` in it, or as me@host: go there."
    )
    return click.option("--cluster", metavar="PROFILE", help=text)(function)


def go_to_login(spec: str, cluster: str | None, *, copies: bool = True, results: str | None = None) -> None:
    """Carry this command out on the login host that `--cluster` names, and exit; return where it names none.

    `copies` and `results` are those of an `Errand`.
    """
    if cluster is None:
        return
    from compiler.remote.errand import Errand, carry_out, site_of

    site = site_of(cluster, spec)
    if site is None:
        return
    context = click.get_current_context()
    left_out = {"spec", "cluster", *(["out"] if results is not None else [])}
    errand = Errand(
        str(context.command.name),
        spec,
        *_words_of(context, left_out),
        context.params["overrides"],
        copies,
        results,
    )
    context.exit(carry_out(errand, site, lambda line: click.echo(line, err=True)))


def _words_of(context: click.Context, left_out: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options and arguments of the command line again."""
    options: list[str] = []
    arguments: list[str] = []
    for param in context.command.params:
        name = str(param.name)
        if name in left_out or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if not isinstance(param, click.Option):
            arguments += value
        elif param.is_flag:
            options.append(max(param.opts, key=len))
        else:
            values = value if param.multiple else [value]
            options += [f"{max(param.opts, key=len)}={v}" for v in values]
    return tuple(options), tuple(arguments)


@dataclass(frozen=True, slots=True)
class Selectors:
    """What `--select` and `--exclude` say."""

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def select_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--select` and `--exclude`, for every command that is about nodes; it gets `selectors`."""

    @wraps(function)
    def gathered(*args: Any, select: tuple[str, ...], exclude: tuple[str, ...], **named: Any) -> Any:
        return function(*args, selectors=Selectors(select, exclude), **named)

    options = {
        "--exclude": "Leave these nodes out.",
        "--select": "Only these nodes: `tune`, `tune[seed=0]`, `+table:main`, `state:failed` ... "
        "May be given several times; see docs/selecting.md.",
    }
    command: Callable[..., Any] = gathered
    for name, text in options.items():
        names = (name, "-s") if name == "--select" else (name,)
        command = click.option(*names, multiple=True, metavar="NODES", help=text)(command)
    return command


def select_nodes(program: Program, store: Store, selectors: Selectors) -> frozenset[int] | None:
    """The nodes that the options choose; None where they are not given."""
    if not (selectors.select or selectors.exclude):
        return None
    from compiler.planning.selectors import World, choose

    chosen = choose(World(program, lambda: _words(program, store)), selectors.select, selectors.exclude)
    if not chosen:
        click.echo("no node is selected", err=True)
    return chosen


def _words(program: Program, store: Store) -> Sequence[frozenset[str]]:
    """For each node what `state:` can ask for: its phase and what a plan would do with it."""
    from compiler.watching.status import node_states

    phases = node_states(program, store, look_once(store))
    steps = plan_of(program, store, seen=look_once(store)).steps
    return [frozenset({p.phase, s.action}) for p, s in zip(phases, steps, strict=True)]


@contextmanager
def mended() -> Iterator[None]:
    """What a user's file lacks is told in words, also where the runtime's readers find it."""
    from runtime.job import JobError
    from runtime.store import Damaged

    try:
        yield
    except (JobError, Damaged) as error:
        raise UsageError(str(error)) from error


def open_store(path: str) -> Store:
    from runtime.store import Store

    return Store(Path(path).resolve())


def compile_(spec: str, overrides: tuple[str, ...], store: Store) -> Program:
    """The compiled spec; its warnings are printed."""
    # Hardly anything that is made here goes again soon: looking for garbage takes a third of the time.
    gc.disable()
    from compiler.planning.promise import SUFFIX, is_promise
    from compiler.planning.survey import choices
    from compiler.program import compile_spec

    if spec.endswith(SUFFIX) and is_promise(Path(spec)):
        raise UsageError(f"{spec} is a plan: `run` and `submit` carry it out; name its spec here")
    program = compile_spec(spec, overrides, store.root / ".fingerprints.json", choices(store))
    gc.freeze()
    gc.enable()
    for warning in program.warnings:
        click.echo(render(warning, program.texts), err=True)
    return program


def look_once(store: Store) -> Look:
    """One look at the queue for a command that only tells: Slurm is asked once, however often this is."""
    from compiler.slurm.queue import look

    kept = click.get_current_context().meta
    if "look" not in kept:
        kept["look"] = look(store)
    seen: Look = kept["look"]
    return seen


def plan_of(
    program: Program,
    store: Store,
    *,
    on_slurm: bool = False,
    max_array: int | None = None,
    selected: frozenset[int] | None = None,
    seen: Look | None = None,
    profile: Profile | None = None,
    force: bool = False,
) -> Plan:
    """The plan of a program, with the policy of `profile`, where that is given (see `answers`).

    seen: a look at the queue, also one to which Slurm did not answer; None: it has to answer now.
    """
    from compiler.planning.memory import Past, remembered
    from compiler.planning.plan import make_plan
    from compiler.planning.survey import choices, survey
    from compiler.slurm.queue import look_now

    seen = look_now(store) if seen is None else seen
    state = survey(store, program.identities, {key: t.slurm_id for key, t in seen.queued.items()})
    if profile is not None:
        from compiler.slurm.again import answers, with_asks

        over = state.sealed | state.busy.keys()
        told = answers(program, store, seen.tasks, over, profile, force=force)
        state, program = replace(state, answers=told), with_asks(program, told.again)
    past: Past = {}
    if not state.sealed.issuperset(program.keys):  # else nothing runs, and nobody asks why
        past = remembered(store, program.spec.experiment)
    return make_plan(
        program,
        state,
        on_slurm=on_slurm,
        max_array=max_array,
        selected=selected,
        past=past,
        fell=choices(store),
    )


def history_of(store: Store) -> Callable[[str], float | None]:
    """Kind -> seconds that its jobs in the store took, the median; None where there is none."""
    from functools import cache

    from compiler.cost.history import read_history

    @cache
    def usual(kind: str) -> float | None:
        told = read_history(store, [kind], {}).wall_seconds(kind)
        return None if told is None else told[0].likely

    return usual


def remember_plan(plan: Plan, store: Store) -> None:
    """Keep what the nodes are that it carries out, so that the next plan can tell what has changed."""
    from compiler.planning.memory import remember

    steps = zip(plan.steps, plan.program.identities, strict=True)
    nodes = [(step.node, identity) for step, identity in steps if step.action not in ("skip", "blocked")]
    remember(store, plan.program.spec.experiment, nodes)


def asked_for(
    spec: str, store_path: str, overrides: tuple[str, ...], selectors: Selectors, cluster: str | None = None
) -> tuple[Arguments, dict[str, Any] | None]:
    """What a command is asked to carry out: a spec, or a plan on file with what that was made from."""
    from compiler.planning.promise import SUFFIX, Arguments, read_promise

    if not spec.endswith(SUFFIX):
        asked = Arguments(
            os.getcwd(), spec, store_path, overrides, cluster, selectors.select, selectors.exclude
        )
        return asked, None
    source = click.get_current_context().get_parameter_source("store_path")
    if overrides or selectors.select or selectors.exclude or cluster or source is ParameterSource.COMMANDLINE:
        raise UsageError(f"{spec} is a plan, which says all that: name it alone, or make another plan")
    promised, asked = read_promise(Path(spec))
    os.chdir(asked.folder)
    return asked, promised


def keep_plan(path: str, plan: Plan, asked: Arguments, profile: Profile) -> None:
    """Write a plan to a file that `submit` and `run` can carry out. Raises UsageError."""
    from compiler.planning.promise import SUFFIX, promise_json
    from runtime.files import canonical, write_atomic

    if not path.endswith(SUFFIX):
        raise UsageError(f"the name of a plan ends in {SUFFIX}, and {path} does not")
    try:
        write_atomic(Path(path), canonical(promise_json(plan, asked, profile)) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def hold_promise(promised: dict[str, Any] | None, plan: Plan, profile: Profile) -> None:
    """Raise UsageError where a plan on file no longer says what would be done."""
    from compiler.planning.promise import broken

    moved = broken(promised, plan, profile) if promised is not None else []
    if moved:
        lines = "\n".join(f"  {line}" for line in moved)
        raise UsageError(f"nothing was done, since the plan no longer holds:\n{lines}\nmake another plan")


@contextmanager
def submitting(store: Store) -> Iterator[None]:
    """One submission at a time, and after what a killed one left is cleared up."""
    from compiler.slurm import submission

    lock = submission.submission_lock(store)
    try:
        submission.settle(store)
        yield
    finally:
        lock.release()


def plan_to_submit(
    program: Program, store: Store, profile: Profile, selected: frozenset[int] | None, *, force: bool = False
) -> Plan:
    """What `submit` would do; `force`: also with what failed too often."""
    from compiler.planning import beside, place
    from compiler.slurm import submission

    most = submission.max_array_size(profile)
    made = plan_of(
        place.placed(program, profile),
        store,
        on_slurm=True,
        max_array=most,
        selected=selected,
        profile=profile,
        force=force,
    )
    place.require_places(made, profile)
    return beside.side_by_side(made, profile)


def submit_plan(made: Plan, store: Store, profile: Profile) -> None:
    """Submit a plan that was looked through, and say what was submitted."""
    from compiler.slurm import submission

    if made.again:
        _keep_tries(made, store)
    for done in submission.submit(made, profile, store):
        tell_submitted(done)
    tell_blocked(made, "submitted")


def _keep_tries(made: Plan, store: Store) -> None:
    """Keep what the next tries of failed nodes have, and tell it."""
    from runtime.slurm.again import write_again

    told: dict[str, list[str]] = {}
    for index in made.to_run():
        step, identity = made.steps[index], made.program.identities[index]
        if step.key in made.again:
            told.setdefault(step.why, []).append(step.node.id)
            write_again(store, identity.asked, made.again[step.key])
    for why, ids in told.items():
        click.echo(f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {why}")


def tell_submitted(done: Made) -> None:
    """Say what was submitted, or what follows later."""
    if done.left:
        click.echo(f"no room for more: {done.why}")
        click.echo(f"{done.left} tasks follow by themselves; Slurm job {done.slurm_id} submits them")
    else:
        tasks = f"an array of {done.tasks}" if done.tasks > 1 else "one job"
        click.echo(f"submitted {done.name} as Slurm job {done.slurm_id} ({tasks})")


def tell_blocked(plan: Plan, done: str) -> int:
    """Say which nodes are blocked and why; returns how many."""
    blocked = [s for s in plan.shown() if s.action == "blocked"]
    for step in blocked:
        click.echo(f"not {done}: {step.node.id}: {step.why}", err=True)
    return len(blocked)


def with_tables(program: Program, selected: frozenset[int] | None, *, tell: bool = False) -> Program:
    """The program with those tables only whose nodes are all selected; `tell` what the others lack."""
    if selected is None:
        return program
    from compiler.planning.selectors import World

    nodes, keys = program.graph.nodes, program.keys
    chosen = {keys[i] for i in selected}  # equal work under another name will do
    lacking = {
        name: [i for i in sorted(behind) if keys[i] not in chosen]
        for name, behind in World(program).tables.items()
    }
    for name, indices in lacking.items():
        if indices and tell:
            more = f" and {len(indices) - 1} more" if len(indices) > 1 else ""
            text = f"table {name} is left out: it shows {nodes[indices[0]].id}{more}, not selected"
            click.echo(text, err=True)
    return replace(program, tables=tuple(t for t in program.tables if not lacking[t.name]))


def profile_of(program: Program, name: str | None) -> Profile:
    """The cluster profile that is named on the command line, else in the spec, else the empty one."""
    from compiler.site.profile import load_profile

    named = program.spec.cluster
    if name is None and named is not None:
        name = str(named.value)
    return load_profile(name, Path(program.spec.path))


def local_profile(program: Program) -> Profile:
    """What the spec's cluster profile says of prices; its hardware is not that of this machine."""
    from compiler.site.profile import load_profile

    empty = load_profile(None, Path(program.spec.path))
    try:
        return empty.model_copy(update={"prices": profile_of(program, None).prices})
    except UsageError:  # nothing here needs the profile
        return empty


def costs_of(made: Plan, store: Store, profile: Profile) -> tuple[Costs, list[Held]]:
    """What the nodes that are to be made will cost, and how the budget stands."""
    from compiler.cost.amounts import Costs

    costs = Costs({})
    if any(step.action not in ("reuse", "skip") for step in made.steps):
        costs = _estimated(made, store, profile)
    limits = made.program.spec.budget
    if limits.gpu_hours is None and limits.usd is None:
        return costs, []
    from compiler.cost.budget import hold
    from runtime.spending import spent

    return costs, hold(made.program, costs, spent(store, made.program.spec.experiment))


def _estimated(made: Plan, store: Store, profile: Profile) -> Costs:
    from compiler.cost.estimate import estimate
    from compiler.cost.facts import gather
    from compiler.cost.prices import read_tables
    from compiler.planning.beside import with_whole_nodes

    sealed = {step.key for step in made.steps if step.action == "reuse"}
    left_out = {step.key for step in made.steps if step.action == "skip"}
    facts = gather(made.program, sealed, store, read_tables(profile.prices))
    return with_whole_nodes(estimate(made.program, sealed | left_out, facts, profile), made)


def with_estimates(made: Plan, store: Store, profile: Profile) -> Plan:
    """The plan with what its nodes are likely to cost, for their descriptions to keep.

    Raises SpecError where the spec's budget does not allow for it.
    """
    from compiler.cost.budget import require
    from compiler.cost.table import kept

    costs, held = costs_of(made, store, profile)
    require(made.program, costs, held)
    return replace(made, estimated=kept(made, costs))


def with_prices(program: Program, profile: Profile) -> Program:
    """The program, its llms priced by the tables, so that its jobs count dollars."""
    from compiler.cost.prices import priced, read_tables

    return priced(program, read_tables(profile.prices))


def print_tables(program: Program, store: Store) -> Results:
    """Print tables and claims; returns what was found."""
    from compiler.output.describe import describe_tables
    from runtime.results.asked import told
    from runtime.results.costs import costs_of as spent_by
    from runtime.results.everything import load_results

    found = load_results(store, describe_tables(program))
    click.echo(found.text())
    click.echo()
    jobs = found.jobs.values()
    for line in filter(None, (told(jobs), spent_by(jobs, program.spec.experiment).text)):
        click.echo(line)
    return found
