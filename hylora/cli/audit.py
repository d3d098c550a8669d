# SPDX-License-Identifier: Apache-2.0
"""`hylora audit`: does a model do what training and generation take for granted?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["audit"]


def audit(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder, a folder with a model or an adapter, a hub id or a config.json.",
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A YAML recipe, whose attention, adapter, packing and so on are audited.")
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="From the config alone: random weights, a few narrow layers of each kind.")
    ] = False,
    attention: Annotated[
        str | None, typer.Option(help="'full', or a name such as 'se_attn'; the model's own if none.")
    ] = None,
    attention_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of that attention, e.g. selection=token.")
    ] = None,
    ask: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A question, by its name in the JSON, to ask alone.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="The largest difference that is rounding, relative.")] = 3e-5,
    device: Annotated[str, typer.Option(help="Where the model runs.")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the answers to this file as well.")] = None,
) -> None:
    """Ask a model questions that others leave open, and answer yes, no, refused or not asked, with cause and remedy.

    Exit status 1 says that an answer is no.
    """
    # Nobody waits for a recipe's imports who only reads the options.
    from hylora.cli.model_options import read_pairs
    from hylora.files import write_atomically
    from hylora.language.recipe import LanguageRecipe
    from hylora.runs.whereabouts import find_folder
    from hylora.training.recipe_loading import parse_overrides, read_yaml

    if model is None and recipe is None:
        raise ValueError("model=None and recipe=None: name a model, a recipe or both")
    if recipe is not None and (attention or attention_option):
        raise ValueError(f"attention={attention!r} must not come with a recipe, which names one; change it there")
    if model is not None and not Path(model).is_file():
        find_folder(model, revision)
    options = read_pairs(attention_option or [])
    if recipe is not None:
        overrides = [] if model is None else [f"model.path={json.dumps(model)}"]
        asked = LanguageRecipe.from_tree(parse_overrides(read_yaml(recipe), overrides))
    # Nor for torch whose input is wrong.
    from hylora.auditing.audit import audit as run
    from hylora.auditing.opening import open_model, open_recipe

    console, errors = Console(), Console(stderr=True)
    with errors.status("") as status:
        if recipe is not None:
            opened = open_recipe(asked, small=small)
        else:
            opened = open_model(model, small=small, revision=revision)
        found = run(
            opened.model.to(device),
            attention,
            ask=ask or (),
            tolerance=tolerance,
            progress=status.update,
            **(opened.settings or {}),
            **options,
        )
    found = replace(found, conditions=(*opened.conditions, *found.conditions))
    found.show(console)
    if output is not None:
        write_atomically(output, json.dumps(found.to_dict(), indent=2) + "\n")
    if not found.passed:
        raise typer.Exit(1)
