"""`alignc adopt`: take an existing checkpoint or data file in."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.commands.common import compile_, on_spec, open_store


@click.command("adopt", short_help="Take a checkpoint or data that you have as a node's artifact.")
@click.option("--map", "pairs", multiple=True, metavar="FIELD=COLUMN", help="What the file calls a field.")
@click.option("--link", is_flag=True, help="Hard links to the weights, no copies; do not change them later.")
@on_spec
@click.argument("node")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
def command(
    spec: str,
    store_path: str,
    overrides: tuple[str, ...],
    node: str,
    path: Path,
    pairs: tuple[str, ...],
    link: bool,
) -> None:
    """Take a checkpoint or data file that was made elsewhere as the artifact of a node.

    A model is a Hugging Face folder with safetensors; data are JSON lines, one object a row. Results
    say what was adopted, from where and by whom.

    \b
    alignc adopt specs/quickstart.yaml base ~/checkpoints/llama-sft --link
    alignc adopt specs/quickstart.yaml weak_answers alpaca.jsonl --map prompt=instruction
    """
    from compiler.adopt import adopt, find_node
    from compiler.errors import UsageError

    names: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise UsageError(f"`--map {pair}` should be FIELD=COLUMN, such as `--map prompt=instruction`")
        names[field] = column
    store = open_store(store_path)
    program = compile_(spec, overrides, store)
    index = find_node(program, node)
    left_out = adopt(program, store, index, path, names, link=link)
    click.echo(f"adopted {path} as {node}, {program.keys[index][:12]}")
    if left_out:
        click.echo(f"left out: {', '.join(left_out)}")
