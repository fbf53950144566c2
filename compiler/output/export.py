"""Plan -> a folder of plain scripts and descriptions that need the runtime alone, and no compiler."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compiler.output.describe import describe_jobs, describe_tables
from compiler.output.fresh import fresh_folder
from compiler.planning.plan import Plan
from compiler.site.profile import Profile
from compiler.site.shell import python_inside
from compiler.slurm.script import script_text
from runtime.store import Store
from runtime.templates import fill

TOKEN = "export"  # in the comment of exported jobs, where `submit` puts what it finds its jobs by
SETTINGS = (". ./settings.sh",)
WORK = '"$PYTHON" -m runtime.run_task "$STORE" {job_file}'


def exported(plan: Plan, profile: Profile, store: Store) -> Iterator[tuple[str, str]]:
    """Every file of an export: its path inside the folder, and its text."""
    experiment, tables = plan.program.spec.experiment, plan.program.tables
    yield from _jobs(plan, profile)
    yield from _nodes(plan)
    yield "tables.json", _json(describe_tables(plan.program))
    python = python_inside(profile, sys.executable)
    yield "settings.sh", fill("export/settings.sh.j2", store=str(store.root), python=python)
    numbers = {job.name: number for number, job in enumerate(plan.jobs, 1)}
    yield "submit.sh", fill("export/submit.sh.j2", jobs=plan.jobs, numbers=numbers)
    yield "run.sh", fill("export/run.sh.j2", tasks=_tasks(plan))
    if tables:
        yield "results.sh", fill("export/results.sh.j2")
    counts = {"jobs": len(plan.jobs), "nodes": len(plan.to_run()), "tables": len(tables)}
    yield "README.md", fill("export/README.md.j2", experiment=experiment, **counts)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _jobs(plan: Plan, profile: Profile) -> Iterator[tuple[str, str]]:
    """The sbatch scripts, and the tasks of each. All paths start in the export, where sbatch is called."""
    for job in plan.jobs:
        file = f"jobs/{job.name}.json"
        work = WORK.format(job_file=file)
        text = script_text(
            job, profile, token=TOKEN, logs="logs", work=work, store='"$STORE"', settings=SETTINGS
        )
        yield f"jobs/{job.name}.sh", text
        tasks = [[f"../nodes/{plan.steps[i].key}.json" for i in task] for task in job.tasks]
        yield file, _json({"tasks": tasks})


def _nodes(plan: Plan) -> Iterator[tuple[str, str]]:
    wanted = {plan.steps[i].key for i in plan.to_run()}
    for description in describe_jobs(plan.program, plan.estimated):
        if description["key"] in wanted:
            yield f"nodes/{description['key']}.json", _json(description)


def _tasks(plan: Plan) -> list[dict[str, Any]]:
    """What runs one after the other: tasks in an order in which each comes after those it needs."""
    keys = [identity.asked for identity in plan.program.identities]  # by which logs are named
    return [
        {
            "nodes": " ".join(plan.steps[i].node.id for i in task),
            "key": keys[task[-1]],
            "job": job.name,
            "index": index,
        }
        for job in plan.jobs
        for index, task in enumerate(job.tasks)
        if task
    ]


def write_export(plan: Plan, profile: Profile, store: Store, folder: Path) -> None:
    """Write the export; the folder appears whole or not at all. Raises UsageError where it holds anything."""
    with fresh_folder(folder) as draft:
        files = dict(exported(plan, profile, store))
        (draft / "logs").mkdir()
        for name, text in files.items():
            path = draft / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if path.suffix == ".sh":
                path.chmod(0o755)
