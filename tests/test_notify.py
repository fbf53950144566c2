"""What a webhook is told of an experiment's end, and that its address stays a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime import notify
from runtime.files import write_json
from runtime.store import MANIFEST, Store

NODES = [
    {"id": "a", "kind": "prepare", "key": "1", "asked": "1", "needs": []},
    {"id": "b", "kind": "prepare", "key": "2", "asked": "2", "needs": ["a"]},
    {"id": "c", "kind": "prepare", "key": "3", "asked": "3", "needs": ["b"]},
    {"id": "d", "kind": "prepare", "key": "4", "asked": "4", "needs": ["a", "c"]},
    {"id": "e", "kind": "prepare", "key": "5", "asked": "5", "needs": ["a"]},
    {"id": "f", "kind": "prepare", "key": "7", "asked": "6", "needs": []},
]


def test_nodes_are_done_failed_blocked_or_left(store: Store) -> None:
    for key in ("1", "9"):
        write_json(store.artifact("prepare", key) / MANIFEST, {})
    write_json(store.realised("6"), {"key": "9"})  # after a choice it was sealed under another key
    write_json(store.failure("2"), {"outcome": "refused"})
    write_json(store.failure("5"), {"outcome": "interrupted"})
    told = notify.summary(store, {"experiment": "x", "nodes": NODES})
    assert told["failed_nodes"] == ["b"]
    assert told["text"] == "x: 6 nodes, 2 done, 1 failed, 2 blocked, 1 left"


@pytest.mark.parametrize(
    ("webhook", "environment", "found"),
    [
        ({"url_env": "HOOK", "url_file": None}, {"HOOK": " http://a/secret\n"}, "http://a/secret"),
        ({"url_env": "HOOK", "url_file": None}, {}, LookupError("HOOK is not set here")),
        ({"url_env": None, "url_file": "/nowhere/url"}, {}, LookupError("/nowhere/url cannot be read")),
    ],
)
def test_the_address_stands_in_a_variable_or_a_file(webhook: Any, environment: Any, found: Any) -> None:
    if isinstance(found, str):
        assert notify.address(webhook, environment) == found
    else:
        with pytest.raises(LookupError, match=str(found)):
            notify.address(webhook, environment)


@pytest.mark.parametrize("url", ["secret", "http://127.0.0.1:9/secret", "ftp2://secret/x", "http://[secret"])
def test_what_goes_wrong_is_told_without_the_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSE_S", 0.0)
    told = notify.post(url, {"text": "x"})
    assert "webhook" in told and "secret" not in told


def test_a_job_that_was_taken_for_lost_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "job.json", {"tasks": [[]]})
    monkeypatch.setattr("sys.argv", ["notify", str(tmp_path), str(tmp_path / "job.json")])
    notify.main()
    assert capsys.readouterr().out == ""
