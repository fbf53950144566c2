"""The `alignc` command: finds the commands, tells errors, chooses exit codes.

Only this module and `compiler.commands` print. A user's mistake is told in words (exit code 2); a
failed experiment exits with 1; a defect of alignc keeps its traceback.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

import click

from compiler import commands
from compiler.errors import SpecError, UsageError, render
from runtime.plural import counted

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Alignc(click.Group):
    """Finds commands by their modules, and turns what a user can mend into words and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        modules = (m.name for m in pkgutil.iter_modules(commands.__path__))
        return [name.strip("_").replace("_", "-") for name in modules if name != "common"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"compiler.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SpecError as error:
            for diagnostic in error.diagnostics:
                click.echo(render(diagnostic, error.texts) + "\n", err=True)
            more = f"`alignc explain-error {error.diagnostics[0].code}` tells more"
            click.echo(f"{counted(len(error.diagnostics), 'problem')} found; {more}", err=True)
            ctx.exit(2)
        except UsageError as error:
            click.echo(f"alignc: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            sys.stderr.close()  # whoever read us has gone
            ctx.exit(1)


@click.group(cls=Alignc, context_settings=CONTEXT)
@click.version_option(package_name="alignc")
def main() -> None:
    """Compile typed YAML experiment specs to graphs of jobs, run them, and print the tables.

    \b
    alignc check  specs/quickstart.yaml     is the spec right?
    alignc plan   specs/quickstart.yaml     what would run, and why?
    alignc run    specs/quickstart.yaml     run it on this machine
    alignc submit specs/quickstart.yaml     run it on Slurm
    alignc status specs/quickstart.yaml     how far is it?
    alignc results specs/quickstart.yaml    tables, figures, report

    \b
    Shell completion: eval "$(_ALIGNC_COMPLETE=bash_source alignc)"   (or zsh_source, fish_source)
    """


if __name__ == "__main__":
    main()
