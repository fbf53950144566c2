"""Starter specs: what there are, what each asks, and its text with the answers filled in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODELINE = "# yaml-language-server: $schema="


@dataclass(frozen=True, slots=True)
class Starter:
    """A template of templates/starter/; `asks` names the questions whose answers it holds."""

    name: str
    about: str
    asks: tuple[str, ...] = ()


QUESTIONS: dict[str, tuple[str, str]] = {  # answer -> (question, default)
    "data": ("JSON lines with `prompt` and `completion`", "data.jsonl"),
    "model": ("Hugging Face model directory", "model"),
    "judge_url": ("Address of the judge (OpenAI chat protocol)", "http://127.0.0.1:8000/v1"),
    "judge_model": ("Name of the judge's model", "judge"),
}
STARTERS: dict[str, Starter] = {
    starter.name: starter
    for starter in (
        Starter("quickstart", "the whole study in a small world: runs anywhere, in minutes"),
        Starter(
            "sft-dpo", "your data, your model: SFT, a judge's preferences, DPO, win rates", tuple(QUESTIONS)
        ),
        Starter(
            "evaluate-only", "win rates of models against the completions of your data", tuple(QUESTIONS)
        ),
    )
}
_PATHS = ("data", "model")


def starter_text(starter: Starter, spec: Path, answers: Mapping[str, str]) -> str:
    """The starter's spec, to be written to `spec`. Paths in `answers` are relative to where the user is."""
    from runtime.templates import fill

    values = {k: _beside(v, spec) if k in _PATHS else v for k, v in answers.items()}
    quoted = {k: json.dumps(v, ensure_ascii=False) for k, v in values.items()}  # JSON's texts are YAML's
    modeline = f"{MODELINE}.alignc/spec.schema.json"
    return fill(
        f"starter/{starter.name}.yaml.j2", modeline=modeline, file=spec, experiment=_name(spec), **quoted
    )


def _beside(path: str, spec: Path) -> str:
    """A path as the spec must say it: relative to the spec's folder, unless it is absolute."""
    if path.startswith(("package:", "~")) or os.path.isabs(path):
        return path
    return os.path.relpath(path, spec.parent)


def _name(spec: Path) -> str:
    """A name for the experiment, from the file's."""
    name = re.sub(r"[^\w-]+", "-", spec.stem).strip("-")
    return name if re.match(r"[A-Za-z_]", name) else f"study-{name}".strip("-")
