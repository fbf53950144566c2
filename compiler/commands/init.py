"""`alignc init`: write a starter spec, by question or by flag."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from compiler.errors import UsageError
from compiler.manual.starter import QUESTIONS, STARTERS, Starter, starter_text


@click.command("init", short_help="Write a starter spec, by question or by flag.")
@click.argument("file", default="study.yaml", type=click.Path(dir_okay=False))
@click.option("--template", type=click.Choice(list(STARTERS)), help="Which starter.")
@click.option("--data", metavar="FILE", help="JSON lines with `prompt` and `completion`.")
@click.option("--model", metavar="DIR", help="A Hugging Face model directory.")
@click.option("--judge-url", metavar="URL", help="A server that speaks the OpenAI chat protocol.")
@click.option("--judge-model", metavar="NAME", help="The model that judges there.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def command(file: str, template: str | None, force: bool, **given: str | None) -> None:
    """Write a starter spec. On a terminal it asks for what no flag says; else defaults stand in.

    \b
    alignc init
    alignc init study.yaml --template quickstart
    alignc init study.yaml --template sft-dpo --data chats.jsonl --model models/qwen
    """
    from compiler.manual.schema import spec_schema, to_text
    from runtime.stage import installed_kinds

    path = Path(file)
    if path.exists() and not force:
        raise UsageError(f"{path} is there already: choose another name, or overwrite it with --force")
    asking = sys.stdin.isatty()
    starter = STARTERS[template or (_which() if asking else next(iter(STARTERS)))]
    text = starter_text(starter, path, _answers(starter, given, asking=asking))
    schema = path.parent / ".alignc" / "spec.schema.json"
    schema.parent.mkdir(parents=True, exist_ok=True)
    schema.write_text(to_text(spec_schema(installed_kinds())), encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    click.echo(f"wrote {path}, and {schema} for your editor; next:")
    for verb in ("check", "plan", "run", "results"):
        click.echo(f"  alignc {verb} {shlex.quote(str(path))}")


def _which() -> str:
    for name, starter in STARTERS.items():
        click.echo(f"{name:<14} {starter.about}")
    choice: str = click.prompt(
        "Which starter?", type=click.Choice(list(STARTERS)), default=next(iter(STARTERS))
    )
    return choice


def _answers(starter: Starter, given: Mapping[str, str | None], *, asking: bool) -> dict[str, str]:
    """What the starter needs to know: from flags, else from the user, else the default."""
    for name, value in given.items():
        if value is not None and name not in starter.asks:
            raise UsageError(f"the starter {starter.name} has no use for --{name.replace('_', '-')}")
    answers: dict[str, str] = {}
    for name in starter.asks:
        words, default = QUESTIONS[name]
        answers[name] = given[name] or (click.prompt(words, default=default) if asking else default)
    return answers
