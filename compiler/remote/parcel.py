"""What a spec needs on a login host: its texts, and the data that it names as seen from itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from compiler.errors import COMMAND_LINE, Diagnostic, SpecError, UsageError
from compiler.frontend.source import Located
from compiler.frontend.spec import Declaration
from compiler.program import Program
from runtime.declare import PACKAGE


@dataclass(frozen=True, slots=True)
class Parcel:
    """Absolute paths, none twice: small files that are read as text, and files and folders of data."""

    texts: tuple[str, ...]
    data: tuple[str, ...]


def parcel(program: Program) -> Parcel:
    """What a program reads that stands beside it.

    Absolute paths, `~` and packages name what is on the host, and are left alone. Raises SpecError where a
    file is not there, UsageError for a folder with the spec in it.
    """
    texts = [os.path.abspath(name) for name in program.texts if not name.startswith(COMMAND_LINE)]
    found = {"text": dict.fromkeys(texts), "data": dict[str, None]()}
    missing: list[Diagnostic] = []
    for kind, named in _named(program):
        if str(named.value).startswith(("/", "~", PACKAGE)):
            continue
        path = os.path.normpath(os.path.join(_folder(named), str(named.value)))
        found[kind][path] = None
        if not os.path.exists(path):
            missing.append(Diagnostic("AC501", f"{path} is not there", named.span, HINT))
    if missing:
        raise SpecError(missing, program.texts)
    for path in found["data"]:
        if any(os.path.commonpath([path, text]) == path for text in texts):
            raise UsageError(
                f"{path} is not copied, since the spec is in it: keep data in a folder of its own"
            )
    return Parcel(tuple(found["text"]), tuple(found["data"]))


HINT = "a relative path is copied from here; what is on the login host is named by its absolute path there"


def _named(program: Program) -> Iterator[tuple[str, Located]]:
    """The names of files in a spec, where they stand: published numbers, and data that some node reads."""
    for _, at in program.spec.tables.values():
        file, depth = at.find(["published", "file"])
        if depth == 2:
            yield "text", file
    bindings = (b for node in program.graph.nodes for bs in node.inputs.values() for b in bs)
    for declaration in {b.declaration.name: b.declaration for b in bindings if b.declaration}.values():
        named = _path(declaration)
        if named is not None and isinstance(named.value, str):
            yield "data", named


def _path(declaration: Declaration) -> Located | None:
    body = declaration.body.items
    return body["path"] if "path" in body else body["model"].items.get("path") if "model" in body else None


def _folder(named: Located) -> str:
    """The folder that a relative name is seen from: its file's, or the one of the command line."""
    return os.getcwd() if named.span.on_command_line else os.path.dirname(os.path.abspath(named.span.file))
