# SPDX-License-Identifier: Apache-2.0
"""The `hylora` command."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

__all__ = ["build_app", "main"]

# name -> (module, attribute, one line of help); the attribute is a function or a typer app.
_COMMANDS = {
    "train": ("hylora.cli.train", "train", "Fine-tune a model as a recipe says."),
    "eval": ("hylora.cli.evaluate", "app", "Evaluate a model: perplexity by context length."),
    "demo": ("hylora.cli.demo", "demo", "The whole story in miniature, on a laptop CPU without network."),
    "env": ("hylora.cli.env", "env", "Show versions, devices, and which kernels will be used and why."),
}


def build_app(arguments: list[str]) -> typer.Typer:
    """The command line, with only the subcommand that `arguments` name imported: what it does not need stays out.

    Args:
        arguments: the command line without the program's name.
    """
    app = typer.Typer(
        help="Stretch hybrid language models to long contexts.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for name, (module, attribute, text) in _COMMANDS.items():
        target = getattr(import_module(module), attribute) if name in arguments[:1] else _not_imported
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, help=text)
        else:
            app.command(name, help=text)(target)

    @app.callback()
    def options() -> None:
        """Stretch hybrid language models to long contexts."""

    return app


def _not_imported() -> None:
    """Stands for a subcommand that was not asked for, so that `--help` lists it."""


def main() -> None:
    """Run the command line; wrong input ends with its message and status 1, without a traceback."""
    arguments = sys.argv[1:]
    try:
        build_app(arguments)(arguments, prog_name="hylora")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
