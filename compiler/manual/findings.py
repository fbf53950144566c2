"""Findings as documents for other programs: alignc.diagnostics/1, and SARIF 2.1.0 for code scanners."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from compiler.errors import CODES, Diagnostic, Span
from compiler.manual.explanations import explanations

SCHEMA = "alignc.diagnostics/1"
SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def _place(span: Span) -> dict[str, Any]:
    return {"file": span.file, "line": span.line, "column": span.column, "end_column": span.end}


def to_json(spec: str, found: Sequence[Diagnostic]) -> dict[str, Any]:
    """Places count from 1; `end_column` is the one after the last. A `--set` is a file of one line."""
    return {
        "schema": SCHEMA,
        "spec": spec,
        "errors": sum(d.severity == "error" for d in found),
        "warnings": sum(d.severity == "warning" for d in found),
        "diagnostics": [
            {
                "code": d.code,
                "severity": d.severity,
                "title": CODES[d.code],
                "message": d.message,
                "hint": d.hint,
                **_place(d.span),
                "notes": [{"text": word, **_place(span)} for word, span in d.related],
            }
            for d in found
        ],
    }


def to_sarif(spec: str, found: Sequence[Diagnostic]) -> dict[str, Any]:
    """A log with one run. A finding in a `--set` stands at the line that it overrides."""
    codes = sorted({d.code for d in found})
    return {
        "$schema": SARIF,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "alignc",
                        "version": version("alignc"),
                        "rules": [_rule(code) for code in codes],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(spec, d, codes.index(d.code)) for d in found],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    level = "warning" if code.startswith("AC6") else "error"
    return {
        "id": code,
        "shortDescription": {"text": CODES[code]},
        "help": {"text": explanations()[code].text, "markdown": explanations()[code].as_markdown()},
        "defaultConfiguration": {"level": level},
    }


def _result(spec: str, d: Diagnostic, rule: int) -> dict[str, Any]:
    places = [d.span, *(span for _, span in d.related), Span(spec, 1, 1, 2)]
    in_file = next(span for span in places if not span.on_command_line)
    location = _location(in_file)
    if d.span.on_command_line:
        location["logicalLocations"] = [{"fullyQualifiedName": d.span.file}]
    related = [
        {"id": number, "message": {"text": word}, **_location(span)}
        for number, (word, span) in enumerate(d.related, 1)
        if not span.on_command_line
    ]
    return {
        "ruleId": d.code,
        "ruleIndex": rule,
        "level": d.severity,
        "message": {"text": f"{d.message}\n{d.hint}" if d.hint else d.message},
        "locations": [location],
        **({"relatedLocations": related} if related else {}),
    }


def _location(span: Span) -> dict[str, Any]:
    region = {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.line,
        "endColumn": span.end,
    }
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(span.file)}, "region": region}}


def _uri(file: str) -> str:
    """Relative paths stay so, for a scanner that stands at the top of the checkout."""
    if Path(file).is_absolute():
        return Path(file).as_uri()
    return quote(Path(os.path.normpath(file)).as_posix())
