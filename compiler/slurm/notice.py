"""The last job of a submission, which tells by mail or webhook how all of it ended: what it has to know."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from compiler.planning.plan import Plan
from compiler.site.profile import Profile
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


def _description(plan: Plan, profile: Profile) -> dict[str, Any]:
    """The nodes that the plan is about, and where the address of the webhook stands."""
    chosen = range(len(plan.steps)) if plan.selected is None else sorted(plan.selected)
    steps = [(plan.steps[i], plan.program.identities[i]) for i in chosen]
    return {
        "experiment": plan.program.spec.experiment,
        "webhook": profile.webhook.model_dump() if profile.webhook else None,
        "nodes": [
            {
                "id": step.node.id,
                "kind": step.node.kind.name,
                "key": identity.key,
                "asked": identity.asked,
                "needs": [plan.steps[n].node.id for n in step.needs],
            }
            for step, identity in steps
        ],
    }


def description_file(plan: Plan, profile: Profile, store: Store) -> Path:
    digest = digest_text(canonical(_description(plan, profile)))
    return store.experiment(plan.program.spec.experiment) / "ends" / f"{digest}.json"


def write_description(plan: Plan, profile: Profile, store: Store) -> None:
    write_json(description_file(plan, profile, store), _description(plan, profile))
