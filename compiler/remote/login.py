"""The login host of a cluster profile, and which place there stands for which place here."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from compiler.errors import UsageError
from runtime.fields import Frozen

HOST = re.compile(r"\w[\w.@%+-]*", re.ASCII)


def _host(text: str) -> str:
    if not HOST.fullmatch(text):
        raise ValueError("a host is one word that ssh takes, such as `me@login.site.org`")
    return text


def _folder(text: str) -> str:
    if text.startswith("~") and not text.startswith("~/"):
        raise ValueError("a folder there is named by an absolute path, or begins with `~/`")
    return text if text.startswith(("/", "~")) else f"~/{text}"


class Login(Frozen):
    """Where a command with `--cluster` goes from a machine that is not the cluster's (see docs/remote.md)."""

    host: Annotated[str, AfterValidator(_host)] = Field(
        description="as ssh knows it: `me@login.site.org`, or a name of ~/.ssh/config"
    )
    folder: Annotated[str, AfterValidator(_folder)] = Field(
        "~/alignc", description="the folder there that stands for your home folder here"
    )
    alignc: str = Field(
        "alignc", description="the command there: a name, or a path such as `~/venv/bin/alignc`"
    )
    options: list[str] = Field(
        default_factory=list, description="more options of ssh, a word each: `[-J, me@gate.site.org]`"
    )


def in_shell(path: str) -> str:
    """A path of the host as a word of its shell; `~/` is the home folder there."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A folder here that the login's folder stands for: every place below has its place there."""

    bases: tuple[str, ...]  # names of one folder, the first without links

    @classmethod
    def of(cls, *paths: str) -> Mirror:
        """Of the home folder, or of all there is where one of the absolute `paths` lies outside."""
        home = os.path.expanduser("~")
        mirror = cls((os.path.realpath(home), home))
        return mirror if all(mirror.has(path) for path in paths) else cls(("/",))

    def has(self, path: str) -> bool:
        return any(os.path.commonpath([base, path]) == base for base in self.bases)

    def place(self, path: str) -> str:
        """The place of an absolute path, from the folder there. Raises UsageError for one outside."""
        for base in self.bases:  # a home folder may be a link
            if os.path.commonpath([base, path]) == base:
                return os.path.relpath(path, base)
        raise UsageError(f"{path} cannot be copied, since it lies outside {self.bases[0]}, unlike the spec")

    def seen(self, path: str) -> str:
        """The same place, from that of the current folder."""
        return os.path.relpath(self.place(os.path.abspath(path)), self.place(os.getcwd()))
