# SPDX-License-Identifier: Apache-2.0
"""The `hylora` command line.

It stands beside the packages whose commands it runs: importing any of them takes seconds, for torch and transformers
come along, and a list of commands needs neither. So commands are known by name, and imported when they are asked for.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperCommand

__all__ = ["build_app", "main"]

# name -> (module, attribute, one line of help); the attribute is a function, or a table like this one.
_COMMANDS = {
    "train": ("hylora.cli.train", "train", "Fine-tune a model as a recipe says."),
    "plan": ("hylora.cli.plan", "plan", "Tell what fine-tuning takes and whether it fits, before renting a GPU."),
    "audit": ("hylora.cli.audit", "audit", "Ask a model whether packing, LoRA, merging and so on do what they say."),
    "convert": ("hylora.cli.convert", "COMMANDS", "Convert a checkpoint to safetensors in transformers' format."),
    "generate": ("hylora.cli.generate", "generate", "Continue a text with a model, under its own sparse attention."),
    "export": ("hylora.cli.export", "export", "Write a run as an ordinary model, merged."),
    "env": ("hylora.cli.env", "env", "Show versions, devices, and which kernels will be used and why."),
}

# 512, 0.9, 2:4 and 4bit.
_NUMBER = re.compile(r"\d*[.:]?\d+(bit)?")

_WRONG_INPUT = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)


def _all_commands() -> dict[str, tuple[str, str, str]]:
    """The commands of `hylora`, and those that other packages bring: entry points that name an entry of the table."""
    return {**_COMMANDS, **{entry.name: entry.load() for entry in entry_points(group="hylora.commands")}}


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
            app.command(name, help=line, cls=_Command)(target)

    # A callback keeps a table of one command a table.
    app.callback(help=text)(_not_imported)
    return app


def _not_imported() -> None:
    """Stands for what has nothing to run: a subcommand that was not asked for is still listed by `--help`."""


class _Command(TyperCommand):
    """Lets `--lengths 512 1024 2048` stand for one `--lengths` per number, for every option that may be repeated.

    So do `--levels 0.5 2:4 4bit`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Spread the numbers, then parse as usual."""
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spread: list[str] = []
        current = None
        for argument in args:
            name = argument.split("=")[0]
            if name in repeatable:
                current = name
            elif not _NUMBER.fullmatch(argument):
                current = None
            elif current is not None and spread[-1] != current:
                spread.append(current)
            spread.append(argument)
        return super().parse_args(ctx, spread)


def main() -> None:
    """Run the command line; an error that is no mistake of the program ends with its message, without a traceback.

    The exit status is 2 for wrong input, and 1 for what keeps right input from running: a package that is not
    installed, a full disk, a hub that does not answer.
    """
    arguments = sys.argv[1:]
    try:
        build_app(arguments)(arguments, prog_name="hylora")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, _WRONG_INPUT) else 1)
