"""A loopback server with the batch APIs of OpenAI and Anthropic, and their live ones.

In a test: `with BatchServer() as server:` and give an llm `base_url: server.openai` or `server.anthropic`.
A batch goes one step on each time that somebody looks at it. `fate` says what becomes of a row, `script`
what becomes of a request.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.judge_server import Answer, Seen, anthropic_reply, coin_verdict, openai_reply

# What becomes of a row: ok, expired, canceled, missing, doubled, or an error as (status, type, message).
Fate = str | tuple[int, str, str]


class Refused(Exception):
    """An HTTP answer that is an error."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
        self.body = {"type": "error", "error": {"type": kind, "message": message, **more}}


class CutOff(Exception):
    """The connection ends without an answer."""


@dataclass
class Made:
    """A batch. `asked` are the bodies of its rows by name; `steps`: looks until it has ended."""

    id: str
    vendor: str
    asked: dict[str, dict[str, Any]]
    created: float
    steps: int
    metadata: dict[str, str] | None = None
    ends: str = "completed"
    errors: list[dict[str, Any]] = field(default_factory=list)
    cancelled: bool = False
    results: tuple[list[Any], list[Any]] = ([], [])  # rows with replies, and rows with errors

    @property
    def ended(self) -> bool:
        return self.steps <= 0


@dataclass
class Call:
    """One request as it arrived. `after`: it has been carried out, and its answer is about to be sent."""

    method: str
    path: str
    after: bool = False


class BatchServer:
    """Runs in threads. `calls` holds every request, `paid` how often each question was answered."""

    def __init__(self, answer: Answer = coin_verdict) -> None:
        self.answer = answer
        self.fate: Callable[[str], Fate] = lambda text: "ok"  # of a row, by its question
        self.script: Callable[[Call], None] = lambda call: None  # may raise Refused or CutOff, or kill
        self.steps = 2
        self.most_waiting: int | None = None  # rows that OpenAI's queue takes
        self.spoil: Callable[[list[str]], list[str]] = lambda lines: lines  # the lines of a result file
        self.calls: list[Call] = []
        self.batches: list[Made] = []
        self.paid: dict[str, int] = {}
        self.files: dict[str, list[str]] = {}
        self._lock = threading.RLock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._handle(self, "GET")

            def do_POST(self) -> None:
                outer._handle(self, "POST")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_port

    @property
    def openai(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def anthropic(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> BatchServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    # ------------------------------------------------------------ HTTP

    def _handle(self, http: BaseHTTPRequestHandler, method: str) -> None:
        raw = http.rfile.read(int(http.headers.get("content-length") or 0))
        path = urlsplit(http.path).path
        try:
            with self._lock:
                self.calls.append(Call(method, path))
                self.script(Call(method, path))
                found = self._route(method, http, raw)
                self.script(Call(method, path, after=True))
            body = found if isinstance(found, bytes) else json.dumps(found).encode()
            _answer(http, 200, body)
        except Refused as error:
            _answer(http, error.status, json.dumps(error.body).encode())
        except CutOff:
            http.close_connection = True
            http.connection.shutdown(2)

    def _route(self, method: str, http: BaseHTTPRequestHandler, raw: bytes) -> Any:
        url = urlsplit(http.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = url.path
        if path == "/v1/chat/completions":
            return self._live(json.loads(raw), openai_reply, path)
        if path == "/v1/messages":
            return self._live(json.loads(raw), anthropic_reply, path)
        if path == "/v1/files":
            return self._upload(http.headers["content-type"], raw)
        if found := re.fullmatch(r"/v1/files/([\w-]+)/content", path):
            return self._text(self.files[found[1]])
        if path == "/v1/batches":
            return self._make_openai(json.loads(raw)) if method == "POST" else self._list_openai(query)
        if found := re.fullmatch(r"/v1/batches/([\w-]+)(/cancel)?", path):
            return _openai(self._step(self._batch("openai", found[1]), cancel=bool(found[2])))
        if path == "/v1/messages/batches":
            return self._make_anthropic(json.loads(raw)) if method == "POST" else self._list_anthropic(query)
        if found := re.fullmatch(r"/v1/messages/batches/([\w-]+)/results", path):
            good, bad = self._batch("anthropic", found[1]).results
            return self._text([json.dumps(row) for row in reversed(good + bad)])
        if found := re.fullmatch(r"/v1/messages/batches/([\w-]+)(/cancel)?", path):
            batch = self._step(self._batch("anthropic", found[1]), cancel=bool(found[2]))
            return _anthropic(batch, self.anthropic)
        raise Refused(404, f"no such path: {path}")

    def _text(self, lines: list[str]) -> bytes:
        return "".join(line + "\n" for line in self.spoil(lines)).encode()

    def _batch(self, vendor: str, id_: str) -> Made:
        for batch in self.batches:
            if (batch.vendor, batch.id) == (vendor, id_):
                return batch
        raise Refused(404, f"no such batch: {id_}")

    def _seen(self, path: str, body: dict[str, Any]) -> Seen:
        seen = Seen(path, {}, body)
        self.paid[seen.text] = self.paid.get(seen.text, 0) + 1
        return seen

    def _live(self, body: dict[str, Any], make: Callable[[Seen, str], Any], path: str) -> Any:
        seen = self._seen(path, body)
        return make(seen, self.answer(seen))

    # ------------------------------------------------------------ batches

    def _step(self, batch: Made, *, cancel: bool = False) -> Made:
        """A batch as it is now; the next look finds it further on."""
        if cancel:
            if batch.ended:
                raise Refused(409, "it has ended")
            batch.cancelled = True
            return batch
        batch.steps -= 1
        if batch.steps == 0 and batch.ends != "failed":
            self._finish(batch)
        return batch

    def _finish(self, batch: Made) -> None:
        good: list[Any] = []
        bad: list[Any] = []
        for number, (name, body) in enumerate(batch.asked.items()):
            seen = Seen("", {}, body)
            fate = self.fate(seen.text)
            if batch.cancelled and number % 2:  # what was not asked yet
                fate = "canceled"
            if fate in ("ok", "doubled"):
                row = self._answered(batch, name, body)
                good += [row] * (2 if fate == "doubled" else 1)
            elif fate != "missing":
                bad.append(_unanswered(batch.vendor, name, fate))
            if fate == "expired":
                batch.ends = "expired"
        if batch.cancelled:
            batch.ends = "cancelled"
        batch.results = good, bad
        self.files[f"out-{batch.id}"] = [json.dumps(row) for row in reversed(good)]
        self.files[f"err-{batch.id}"] = [json.dumps(row) for row in bad]

    def _answered(self, batch: Made, name: str, body: dict[str, Any]) -> Any:
        seen = self._seen("", body)
        if batch.vendor == "openai":
            reply = openai_reply(seen, self.answer(seen))
            response = {"status_code": 200, "request_id": f"q-{name}", "body": reply}
            return {"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": None}
        message = anthropic_reply(seen, self.answer(seen))
        return {"custom_id": name, "result": {"type": "succeeded", "message": message}}

    # ------------------------------------------------------------ OpenAI

    def _upload(self, kind: str, raw: bytes) -> Any:
        head = f"content-type: {kind}\r\n\r\n".encode()
        parts = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw).iter_parts()
        fields = {part.get_param("name", header="content-disposition"): part for part in parts}
        if fields["purpose"].get_payload(decode=True).decode().strip() != "batch":
            raise Refused(400, "the purpose is not `batch`")
        text = fields["file"].get_payload(decode=True).decode()
        id_ = f"file-{len(self.files)}"
        self.files[id_] = text.splitlines()
        return {
            "id": id_, "object": "file", "bytes": len(text), "created_at": int(time.time()),
            "filename": fields["file"].get_filename(), "purpose": "batch", "status": "processed",
        }  # fmt: skip

    def _make_openai(self, body: dict[str, Any]) -> Any:
        assert body["endpoint"] == "/v1/chat/completions" and body["completion_window"] == "24h"
        rows = [json.loads(line) for line in self.files[body["input_file_id"]]]
        assert all(row["method"] == "POST" and row["url"] == body["endpoint"] for row in rows)
        asked = {row["custom_id"]: row["body"] for row in rows}
        assert len(asked) == len(rows), "duplicate_custom_id"
        batch = self._new("openai", asked, body.get("metadata"))
        waiting = sum(len(b.asked) for b in self.batches if not b.ended and b.ends != "failed")
        if self.most_waiting is not None and waiting > self.most_waiting:
            batch.ends, batch.steps = "failed", 1
            batch.errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
        return _openai(batch)

    def _new(self, vendor: str, asked: dict[str, Any], metadata: dict[str, str] | None = None) -> Made:
        batch = Made(f"batch_{len(self.batches)}", vendor, asked, time.time(), self.steps, metadata)
        self.batches.append(batch)
        return batch

    def _page(self, vendor: str, limit: int, after: str | None) -> tuple[list[Made], bool]:
        mine = [b for b in reversed(self.batches) if b.vendor == vendor]
        start = 1 + [b.id for b in mine].index(after) if after else 0
        return mine[start : start + limit], len(mine) > start + limit

    def _list_openai(self, query: dict[str, str]) -> Any:
        found, more = self._page("openai", min(2, int(query.get("limit", 20))), query.get("after"))
        return {"object": "list", "data": [_openai(batch) for batch in found], "has_more": more}

    # ------------------------------------------------------------ Anthropic

    def _make_anthropic(self, body: dict[str, Any]) -> Any:
        names = [row["custom_id"] for row in body["requests"]]
        if len(set(names)) < len(names):
            raise Refused(400, "custom_id: must be unique")
        if not all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names):
            raise Refused(400, "custom_id: bad characters")
        asked = {row["custom_id"]: row["params"] for row in body["requests"]}
        return _anthropic(self._new("anthropic", asked), self.anthropic)

    def _list_anthropic(self, query: dict[str, str]) -> Any:
        found, more = self._page("anthropic", min(2, int(query.get("limit", 20))), query.get("after_id"))
        for batch in found:  # somebody else looks at them too
            self._step(batch)
        data = [_anthropic(batch, self.anthropic) for batch in found]
        ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return {"data": data, "has_more": more, "first_id": ends[0], "last_id": ends[1]}


def _answer(http: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    http.send_response(status)
    http.send_header("content-type", "application/json")
    http.send_header("content-length", str(len(body)))
    http.end_headers()
    http.wfile.write(body)


def _openai(batch: Made) -> dict[str, Any]:
    good, bad = batch.results
    status = batch.ends if batch.ended else "in_progress" if not batch.cancelled else "cancelling"
    if not batch.ended and batch.ends == "failed":
        status = "validating"
    return {
        "id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "input_file_id": "file", "created_at": int(batch.created), "metadata": batch.metadata,
        "status": status, "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "request_counts": {"total": len(batch.asked), "completed": len(good), "failed": len(bad)},
        "output_file_id": f"out-{batch.id}" if good else None,
        "error_file_id": f"err-{batch.id}" if bad else None,
    }  # fmt: skip


def _anthropic(batch: Made, base: str) -> dict[str, Any]:
    kinds = [row["result"]["type"] for rows in batch.results for row in rows]
    counts = {kind: kinds.count(kind) for kind in ("succeeded", "errored", "canceled", "expired")}
    counts["processing"] = 0 if batch.ended else len(batch.asked)
    if batch.ended:  # rows that the results leave out are counted all the same
        counts["succeeded"] += len(batch.asked) - sum(counts.values())
    created = datetime.fromtimestamp(batch.created, UTC).isoformat()
    return {
        "id": batch.id, "type": "message_batch", "request_counts": counts, "created_at": created,
        "processing_status": "ended" if batch.ended else "canceling" if batch.cancelled else "in_progress",
        "expires_at": created, "ended_at": created if batch.ended else None, "archived_at": None,
        "cancel_initiated_at": created if batch.cancelled else None,
        "results_url": f"{base}/v1/messages/batches/{batch.id}/results" if batch.ended else None,
    }  # fmt: skip


def _unanswered(vendor: str, name: str, fate: Fate) -> Any:
    if vendor == "openai":
        row: dict[str, Any] = {"id": f"batch_req_{name}", "custom_id": name, "response": None, "error": None}
        if isinstance(fate, str):
            code = {"expired": "batch_expired", "canceled": "batch_cancelled"}[fate]
            return {**row, "error": {"code": code, "message": f"{code}: it was not executed"}}
        status, kind, message = fate
        body = {"error": {"type": kind, "message": message, "code": None, "param": None}}
        return {**row, "response": {"status_code": status, "request_id": "q", "body": body}}
    if isinstance(fate, str):
        return {"custom_id": name, "result": {"type": fate}}
    error = {"type": "error", "error": {"type": fate[1], "message": fate[2]}, "request_id": "q"}
    return {"custom_id": name, "result": {"type": "errored", "error": error}}
