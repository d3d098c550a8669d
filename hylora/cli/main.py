# SPDX-License-Identifier: Apache-2.0
"""The `hylora` command."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import entry_points

import typer

from hylora.cli.command import Command

__all__ = ["build_app", "main"]

# name -> (module, attribute, one line of help); the attribute is a function, or a table like this one.
_COMMANDS = {
    "train": ("hylora.cli.train", "train", "Fine-tune a model as a recipe says."),
    "plan": ("hylora.cli.plan", "plan", "Tell what fine-tuning takes and whether it fits, before renting a GPU."),
    "convert": ("hylora.cli.convert", "COMMANDS", "Convert a checkpoint to safetensors in transformers' format."),
    "export": ("hylora.cli.export", "export", "Write a run as an ordinary model, merged."),
    "env": ("hylora.cli.env", "env", "Show versions, devices, and which kernels will be used and why."),
}


def _all_commands() -> dict[str, tuple[str, str, str]]:
    """The commands of this package, and those that other packages bring."""
    found = entry_points(group="hylora.commands")
    return {**_COMMANDS, **{entry.name: (entry.module, entry.attr, "") for entry in found}}


def build_app(
    arguments: list[str],
    commands: dict[str, tuple[str, str, str]] | None = None,
    text: str = "Stretch hybrid language models to long contexts.",
) -> typer.Typer:
    """The command line, with only the subcommand that `arguments` name imported: what it does not need stays out.

    Args:
        arguments: the command line without the program's name.
        commands: the subcommands, as a table of (module, attribute, one line of help).
        text: help of the whole.
    """
    app = typer.Typer(help=text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    for name, (module, attribute, line) in (_all_commands() if commands is None else commands).items():
        target = getattr(import_module(module), attribute) if name in arguments[:1] else _not_imported
        if isinstance(target, dict):
            app.add_typer(build_app(arguments[1:], target, line), name=name)
        else:
            app.command(name, help=line, cls=Command)(target)

    # A callback keeps a table of one command a table.
    app.callback(help=text)(_not_imported)
    return app


def _not_imported() -> None:
    """Stands for what has nothing to run: a subcommand that was not asked for is still listed by `--help`."""


def main() -> None:
    """Run the command line; wrong input ends with its message and status 1, without a traceback."""
    arguments = sys.argv[1:]
    try:
        build_app(arguments)(arguments, prog_name="hylora")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
