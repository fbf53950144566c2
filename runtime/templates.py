"""The Jinja2 templates that ship with alignc, and the sandbox in which they are filled in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.files import digest_text

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment


def folder() -> Path:
    """Where the templates are: inside the installed package, or at the top of a checkout."""
    installed = Path(__file__).parent / "_templates"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "templates"


@cache
def environment() -> SandboxedEnvironment:
    """Sandboxed, and strict: a name that is not given is an error, never an empty string."""
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    made = SandboxedEnvironment(
        loader=FileSystemLoader(folder()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["sh"] = _shell_quote
    return made


def _shell_quote(value: object) -> str:
    import shlex

    return shlex.quote(str(value))


def names(family: str) -> list[str]:
    """Names of the templates of a family (`judge`, `chat` ...), without their endings."""
    return sorted(p.name.removesuffix(".j2") for p in (folder() / family).glob("*.j2"))


@cache
def digest(name: str) -> str:
    """Hash of a template's text; empty for a name without a file, which the job will refuse or not need."""
    path = folder() / name
    return digest_text(path.read_text(encoding="utf-8")) if path.is_file() else ""


def fill(name: str, **values: Any) -> str:
    """Fill in the template at a path below the templates' folder."""
    return environment().get_template(name).render(**values)
