"""A client of `yaml-language-server`, the one that editors use: open a spec, ask what an editor asks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

SETTINGS = {"yaml": {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}}


class LanguageServer:
    """One server over its standard streams, and one document at a time."""

    def __init__(self, program: str, folder: Path) -> None:
        words = [program, "--stdio"]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
        self.folder, self.version, self.number = folder, 0, 0
        item = {"snippetSupport": True, "documentationFormat": ["markdown"]}
        shows = {"completion": {"completionItem": item}, "hover": {"contentFormat": ["markdown"]}}
        root = {"processId": None, "rootUri": folder.as_uri()}
        self.ask("initialize", {**root, "capabilities": {"textDocument": shows}})
        self._send({"method": "initialized", "params": {}})
        self._send({"method": "workspace/didChangeConfiguration", "params": {"settings": SETTINGS}})

    def __enter__(self) -> LanguageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def problems(self, text: str) -> list[tuple[int, str]]:
        """What the server marks in a text: (line from 1, message)."""
        self.version += 1
        self.uri = (self.folder / f"{self.version}.yaml").as_uri()
        document = {"uri": self.uri, "languageId": "yaml", "version": 1, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        while True:
            told = self._receive()
            if told.get("method") == "textDocument/publishDiagnostics" and told["params"]["uri"] == self.uri:
                found = told["params"]["diagnostics"]
                return [(d["range"]["start"]["line"] + 1, d["message"]) for d in found]

    def completions(self, text: str) -> dict[str, Any]:
        """What is offered where `|` stands in the text: label -> item."""
        result = self._at("textDocument/completion", text)
        items = result["items"] if isinstance(result, dict) else result or []
        return {item["label"]: item for item in items}

    def hover(self, text: str) -> str:
        """What is shown over the place where `|` stands in the text."""
        result = self._at("textDocument/hover", text)
        return result["contents"]["value"] if result else ""

    def _at(self, method: str, text: str) -> Any:
        before, _, after = text.partition("|")
        self.problems(before + after)
        lines = before.split("\n")
        position = {"line": len(lines) - 1, "character": len(lines[-1])}
        return self.ask(method, {"textDocument": {"uri": self.uri}, "position": position})

    def ask(self, method: str, params: Any) -> Any:
        self.number += 1
        number = self.number
        self._send({"id": number, "method": method, "params": params})
        while True:
            told = self._receive()
            if told.get("id") == number and "method" not in told:
                return told["result"]

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        """The next message; what the server asks of the editor is answered on the way."""
        assert self.process.stdout
        length = 0
        while (line := self.process.stdout.readline()) != b"\r\n":
            assert line, "the language server has ended"
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        told: dict[str, Any] = json.loads(self.process.stdout.read(length))
        if "id" in told and "method" in told:
            items = told.get("params", {}).get("items") if isinstance(told.get("params"), dict) else None
            answer = [SETTINGS.get(i.get("section")) for i in items] if items else None
            self._send({"id": told["id"], "result": answer})
        return told
