"""All passes in a row: a spec's path and overrides -> the identified graph, or every error."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from compiler.errors import Diagnostic, SpecError
from compiler.frontend.claims import Claim, resolve_claims
from compiler.frontend.expand import expand
from compiler.frontend.link import link
from compiler.frontend.lint import lint
from compiler.frontend.source import load
from compiler.frontend.spec import Declaration, Spec, read_spec
from compiler.frontend.tables import Table, resolve_tables
from compiler.graph import Graph
from compiler.planning.chain import chain
from compiler.planning.identify import Chosen, Identity, identify, nothing_chosen
from runtime import templates
from runtime.declare import PACKAGE
from runtime.fingerprint import fingerprint


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled spec: nodes with keys, tables, claims, and where it all was written."""

    spec: Spec
    graph: Graph
    identities: tuple[Identity, ...]
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]
    texts: Mapping[str, str]
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def keys(self) -> list[str]:
        return [i.key for i in self.identities]

    def symbolic(self) -> Program:
        """As if no choice had been made: what two specs are compared by."""
        return replace(self, identities=tuple(i.symbolic() for i in self.identities))


def _read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _absolute(base: Path, path: str) -> str:
    """A path that stands beside `base`; what can be no path stays as it is, and will not be found."""
    try:
        return str((base / Path(path).expanduser()).resolve())
    except (OSError, ValueError, RuntimeError):
        return path


def _with_paths(value: Any, base: Path) -> Any:
    """A declaration with every `path` made absolute: relative ones stand beside the file that names them."""
    if not isinstance(value, BaseModel):
        return value
    changed: dict[str, Any] = {}
    for name in type(value).model_fields:
        field = getattr(value, name)
        if name == "path" and isinstance(field, str) and not field.startswith(PACKAGE):
            changed[name] = _absolute(base, field)
        elif isinstance(field, BaseModel):
            changed[name] = _with_paths(field, base)
    return value.model_copy(update=changed)


def _place_of_path(declaration: Declaration) -> Any:
    for name in ("path", "model"):
        found = declaration.body.items.get(name)
        if found is not None:
            return found.items.get("path", found)
    return declaration.body


def _resolve(declaration: Declaration) -> Declaration:
    file = _place_of_path(declaration).span.file
    base = Path.cwd() if file.startswith("--set ") else Path(file).resolve().parent
    return replace(declaration, value=_with_paths(declaration.value, base))


def _files(value: Any) -> list[Path | str]:
    """Files whose content a declaration stands for; a missing package is given as its name."""
    if not isinstance(value, BaseModel):
        return []
    found: list[Path | str] = []
    path = getattr(value, "path", None)
    if isinstance(path, str):
        folder: Path | str = Path(path)
        if path.startswith(PACKAGE):
            folder = _package(path.removeprefix(PACKAGE)) or path
        gguf, files = getattr(value, "gguf", None), getattr(value, "files", None)
        if files and isinstance(folder, Path):
            found += files(folder)
        else:
            found.append(folder / gguf if gguf and isinstance(folder, Path) else folder)
    for name in type(value).model_fields:
        found += _files(getattr(value, name))
    return found


def input_files(program: Program) -> list[Path]:
    """Files and folders that the nodes of a spec read and that no package brings."""
    inputs = (bindings for node in program.graph.nodes for bindings in node.inputs.values())
    named = {b.declaration.name: b.declaration for bindings in inputs for b in bindings if b.declaration}
    declared = (program.spec.declarations[name].value for name in named)
    found = [file for value in declared for file in _files(value) if isinstance(file, Path)]
    return [file for file in dict.fromkeys(found) if "site-packages" not in file.parts]


def _package(name: str) -> Path | None:
    """The folder of an installed Python package."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(found.origin).parent if found and found.origin else None


def _read(file: Path, cache: Path | None) -> str | None:
    """The fingerprint of a file or folder; None where there is none, or another kind of thing."""
    try:
        return fingerprint(file, cache) if file.is_file() or file.is_dir() else None
    except (OSError, ValueError):
        return None


def _content(declaration: Declaration, cache: Path | None) -> tuple[str, list[Diagnostic]]:
    digests: list[str] = []
    problems: list[Diagnostic] = []
    for file in _files(declaration.value):
        if isinstance(file, str):
            name = file.removeprefix(PACKAGE)
            problems.append(
                Diagnostic(
                    "AC501",
                    f"the Python package `{name}` is not installed",
                    _place_of_path(declaration).span,
                    f"pip install --no-deps {name.replace('_', '-')}, or give its folder as `path`",
                )
            )
        elif (digest := _read(file, cache)) is None:
            problems.append(
                Diagnostic(
                    "AC501",
                    f"{file} is not there" if not os.path.exists(file) else f"{file} cannot be read",
                    _place_of_path(declaration).span,
                    f"give another with `--set {declaration.section}.{declaration.name}.path=FILE`",
                )
            )
        else:
            digests.append(digest)
    return " ".join(digests), problems or _mistakes(declaration)


def _mistakes(declaration: Declaration) -> list[Diagnostic]:
    """What is wrong inside the files of a wording, which a job would find too late."""
    if declaration.section != "wordings" or declaration.value is None:
        return []
    from runtime.job import JobError
    from runtime.wordings import open_wording

    try:
        open_wording(declaration.value)
    except JobError as error:
        return [Diagnostic("AC103", str(error), _place_of_path(declaration).span)]
    return []


def compile_spec(
    path: str,
    overrides: Sequence[str] = (),
    cache: Path | None = None,
    chosen: Chosen = nothing_chosen,
    *,
    elsewhere: bool = False,
) -> Program:
    """Compile a spec. `cache` is a file that remembers digests of large input files.

    `chosen` tells what choices have fallen on. With `elsewhere` the spec is for another machine: models and
    data are not looked at, and the keys say nothing. Raises SpecError with all errors of all passes at once.
    """
    source, problems = load(path, overrides, _read_text)
    spec, more = read_spec(source)
    problems += more
    declarations = {name: _resolve(d) for name, d in spec.declarations.items()}
    spec = replace(spec, declarations=declarations)
    linked, more = link(spec)
    problems += more
    graph, more = expand(spec, linked)
    problems += more
    contents: dict[str, str] = {}
    used = {b.declaration.name for n in graph.nodes for bs in n.inputs.values() for b in bs if b.declaration}
    for name, declaration in declarations.items() if not elsewhere else ():
        if name in used:  # a declaration that nothing reads may name a file that is not here
            contents[name], more = _content(declaration, cache)
            problems += more
    identities: tuple[Identity, ...] = ()
    if whole := not _errors(problems):
        graph, identities = chain(graph, identify(graph, contents, templates.digest, chosen))
    tables, more = resolve_tables(spec, graph, whole=whole)
    problems += more
    claims, more = resolve_claims(spec, tables, whole=not _errors(problems))
    problems += more
    if _errors(problems):
        raise SpecError(problems, source.texts)
    problems += lint(spec, graph, tables)
    return Program(spec, graph, identities, tables, claims, source.texts, tuple(problems))


def _errors(problems: Sequence[Diagnostic]) -> bool:
    return any(p.severity == "error" for p in problems)
