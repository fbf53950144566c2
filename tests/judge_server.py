"""A loopback server that speaks the OpenAI chat and the Anthropic messages protocol, with scripted faults.

In a test: `with JudgeServer() as server:` and give an llm `base_url: server.openai` or `server.anthropic`.
By hand, for measurements: python -m tests.judge_server --port 8123 --latency 0.05
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What the server does instead of answering.

    status, headers, body: an answer of this kind (body: JSON data, or raw text).
    reset: the connection is cut. slow: seconds to wait, then a proper answer. drip: seconds before each
    byte of a proper answer. torn: the proper answer ends halfway, and the connection is closed.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    reset: bool = False
    slow: float = 0.0
    drip: float = 0.0
    torn: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The last user message."""
        return next(m["content"] for m in reversed(self.body["messages"]) if m["role"] == "user")


Script = Callable[[int, Seen], Fault | None]  # (how many came before, request) -> fault
Answer = Callable[[Seen], str]


def coin_verdict(seen: Seen) -> str:
    """A verdict that depends on the text alone."""
    return "Output (a)" if hashlib.sha256(seen.text.encode()).digest()[0] % 2 else "Output (b)"


def rate_limited(seconds: float) -> Fault:
    return Fault(
        429, {"retry-after": str(seconds)}, {"error": {"message": "slow down", "type": "rate_limit"}}
    )


def error(status: int, message: str = "no", **more: Any) -> Fault:
    return Fault(status, body={"type": "error", "error": {"message": message, **more}})


def logprobs(seen: Seen, text: str) -> dict[str, Any]:
    """Where they are asked for: 0.8 for the text, 0.2 for it in the other letter case."""
    if not seen.body.get("logprobs"):
        return {}
    told = [
        {"token": t, "bytes": None, "logprob": math.log(p)} for t, p in ((text, 0.8), (text.swapcase(), 0.2))
    ]
    return {"logprobs": {"content": [{**told[0], "top_logprobs": told[: seen.body["top_logprobs"]]}]}}


def openai_reply(seen: Seen, text: str) -> dict[str, Any]:
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": f"{seen.body['model']}-snapshot",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text},
                     **logprobs(seen, text)}],
        "usage": {"prompt_tokens": len(seen.text) // 4, "completion_tokens": 4, "total_tokens": 0},
    }  # fmt: skip


def anthropic_reply(seen: Seen, text: str) -> dict[str, Any]:
    return {
        "id": "m", "type": "message", "role": "assistant", "model": f"{seen.body['model']}-snapshot",
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": len(seen.text) // 4, "output_tokens": 4},
    }  # fmt: skip


class JudgeServer:
    """Runs in a thread of its own. `seen` holds every request; `script` may be changed at any time."""

    def __init__(
        self, script: Script | None = None, answer: Answer = coin_verdict, latency: float = 0.0, port: int = 0
    ) -> None:
        self.script = script
        self.answer = answer
        self.latency = latency
        self.port = port
        self.headers: dict[str, str] = {}  # of every proper answer
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self._at_once = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()

    @property
    def openai(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def anthropic(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> JudgeServer:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen = await _read(reader)
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    going_on = await self._respond(seen, writer)
                finally:
                    self._at_once -= 1
                if not going_on:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _respond(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; false where the connection was cut."""
        number = len(self.seen)
        self.seen.append(seen)
        fault = self.script(number, seen) if self.script else None
        await asyncio.sleep(fault.slow if fault and fault.slow else self.latency)
        if fault and fault.reset:
            writer.transport.abort()
            return False
        if fault and fault.status:
            writer.write(_raw(fault.status, fault.headers, fault.body))
        else:
            make = anthropic_reply if seen.path.endswith("/messages") else openai_reply
            headers = {"x-request-id": f"q{number}", "request-id": f"q{number}", **self.headers}
            raw = _raw(200, headers, make(seen, self.answer(seen)))
            if fault and fault.torn:
                writer.write(raw[: -len(raw) // 4])
                return False
            for part in (raw[i : i + 1] for i in range(len(raw))) if fault and fault.drip else (raw,):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(fault.drip if fault else 0)
        await writer.drain()
        return True


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(head[0].split()[1], headers, json.loads(body or b"{}"))


def _raw(status: int, headers: dict[str, str], body: Any) -> bytes:
    raw = (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = {"content-type": "application/json", "content-length": str(len(raw)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + raw


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, default=8123)
    options.add_argument("--latency", type=float, default=0.05)
    chosen = options.parse_args()
    with JudgeServer(port=chosen.port, latency=chosen.latency) as server:
        print(server.openai, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
