# SPDX-License-Identifier: Apache-2.0
"""`hylora train`: the same as `python -m hylora.train`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["train"]


def train(
    recipe: Annotated[str, typer.Argument(help="YAML recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings that replace the recipe's.")
    ] = None,
) -> None:
    """Train as a recipe says. With several processes: accelerate launch -m hylora.train RECIPE."""
    # Building the command line must not take the seconds that the training stack takes to import.
    from hylora.train import run

    raise typer.Exit(run(recipe, overrides or []))
