"""Tells a webhook how an experiment ended: the last job of a submission, after all others.

    python -m runtime.notify STORE JOB.json

Posts JSON: counts of nodes, the names of those that failed, and `text`, one line in words, which is what
chat services show. The address is a secret: no message holds it. What goes wrong here fails nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.files import read_json
from runtime.store import Store

TRIES, PAUSE_S, TIMEOUT_S = 3, 5.0, 30.0
MOST_NAMES = 50
PASSING = ("interrupted", "warned")  # outcomes of jobs that were stopped, and may go on


def summary(store: Store, told: Mapping[str, Any]) -> dict[str, Any]:
    """How the nodes of an experiment stand, from what the store holds."""
    phases: dict[str, str] = {}
    for node in told["nodes"]:  # each comes after what it needs
        bad = any(phases.get(need) in ("failed", "blocked") for need in node["needs"])
        phases[node["id"]] = "done" if _made(store, node) else _unmade(store, node, blocked=bad)
    counts = {word: list(phases.values()).count(word) for word in ("done", "failed", "blocked", "left")}
    words = [f"{number} {word}" for word, number in counts.items() if number]
    failed = [id_ for id_, phase in phases.items() if phase == "failed"]
    return {
        "experiment": told["experiment"],
        "nodes": len(phases),
        **counts,
        "failed_nodes": failed[:MOST_NAMES],
        "text": f"{told['experiment']}: {len(phases)} nodes, {', '.join(words)}",
    }


def _made(store: Store, node: Mapping[str, Any]) -> bool:
    return any(store.locate(node["kind"], node[name]) is not None for name in ("key", "asked"))


def _unmade(store: Store, node: Mapping[str, Any], *, blocked: bool) -> str:
    """`left`: cancelled, lost, or stopped on the way."""
    if blocked:
        return "blocked"
    try:
        outcome = read_json(store.failure(node["asked"]))["outcome"]
    except (OSError, ValueError, KeyError):
        return "left"
    return "left" if outcome in PASSING else "failed"


def address(webhook: Mapping[str, str | None], environment: Mapping[str, str] = os.environ) -> str:
    """The URL of a webhook. Raises LookupError, with words that do not hold it."""
    variable, file = webhook["url_env"], webhook["url_file"]
    if file is None:
        if not environment.get(variable or ""):
            raise LookupError(f"{variable} is not set here")
        return environment[variable or ""].strip()
    try:
        return Path(file).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise LookupError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LookupError(f"{file} is no text") from error


def post(url: str, message: Mapping[str, Any]) -> str:
    """Post a message; returns what went wrong at last, in words without the URL, or nothing."""
    body, problem = json.dumps(message).encode(), ""
    for attempt in range(TRIES):
        time.sleep(PAUSE_S * attempt)
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return ""
        except urllib.error.HTTPError as error:
            problem = f"the webhook answers {error.code}"
        except (ValueError, http.client.InvalidURL):
            return "the webhook's address is no URL"
        except http.client.HTTPException as error:
            problem = f"the webhook gives no answer that makes sense ({type(error).__name__})"
        except OSError as error:
            reason = getattr(error, "reason", error)
            problem = (
                f"the webhook does not answer: {getattr(reason, 'strerror', None) or type(reason).__name__}"
            )
    return problem


def main() -> None:
    store, job = Store(Path(sys.argv[1])), read_json(Path(sys.argv[2]))
    for name in job["tasks"][0]:  # none where the submission took this job for lost
        told = read_json(Path(name))
        message = summary(store, told)
        print(message["text"], flush=True)
        if told["webhook"]:
            try:
                print(post(address(told["webhook"]), message) or "told the webhook", flush=True)
            except LookupError as error:
                print(f"no webhook was called: {error.args[0]}", flush=True)


if __name__ == "__main__":
    main()
