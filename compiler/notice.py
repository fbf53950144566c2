"""The last job of a submission, which tells by mail or webhook how all of it ended: what it has to know."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from compiler.cluster import Profile
from compiler.plan import Plan
from runtime.files import canonical, digest_text, write_json
from runtime.store import Store


def wanted(profile: Profile) -> bool:
    return profile.webhook is not None or by_mail(profile)


def by_mail(profile: Profile) -> bool:
    return profile.mail is not None and "end" in profile.mail.on


def notice_key(plan: Plan) -> str:
    """The key under which the job is queued, as others are under those of the nodes they make."""
    return f"end.{plan.program.spec.experiment}"


def missing(plan: Plan, profile: Profile, queued: Collection[str]) -> bool:
    """Whether a job has to be submitted that tells of the end. `queued`: keys of all that is queued.

    Also where nothing else is submitted: a submission may have been killed before its last job.
    """
    waits = any(step.action == "wait" for step in plan.steps) and notice_key(plan) not in queued
    return wanted(profile) and (waits or bool(plan.jobs))


def description(plan: Plan, profile: Profile) -> str:
    """The nodes that the plan is about, and where the address of the webhook stands: JSON."""
    chosen = range(len(plan.steps)) if plan.selected is None else sorted(plan.selected)
    nodes = [
        {
            "id": step.node.id,
            "kind": step.node.kind.name,
            "key": plan.program.identities[i].key,
            "asked": plan.program.identities[i].asked,
            "needs": [plan.steps[n].node.id for n in step.needs],
        }
        for i in chosen
        for step in [plan.steps[i]]
    ]
    webhook = profile.webhook.model_dump() if profile.webhook else None
    return canonical({"experiment": plan.program.spec.experiment, "webhook": webhook, "nodes": nodes})


def description_file(plan: Plan, profile: Profile, store: Store) -> Path:
    digest = digest_text(description(plan, profile))
    return store.experiment(plan.program.spec.experiment) / "ends" / f"{digest}.json"


def write_description(plan: Plan, profile: Profile, store: Store) -> None:
    import json

    write_json(description_file(plan, profile, store), json.loads(description(plan, profile)))
