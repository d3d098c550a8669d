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

# The exit status that says that an answer is no; 1 and 2 say that there is none.
_NO = 3


def audit(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder, a folder with a model or an adapter, a hub id, a config.json or a YAML recipe.",
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

    Exit status 3 says that an answer is no.
    """
    # Nobody waits for a recipe's imports who only reads the options.
    from hylora.auditing.statements import check_asked
    from hylora.cli.model_options import check_device, read_pairs
    from hylora.files import check_target, write_atomically
    from hylora.language.recipe import LanguageRecipe
    from hylora.runs.whereabouts import find_folder
    from hylora.training.recipe_loading import parse_overrides, read_yaml

    if recipe is None and model is not None and model.endswith((".yaml", ".yml")):
        model, recipe = None, model
    if model is None and recipe is None:
        raise ValueError("model=None and recipe=None: name a model, a recipe or both")
    if recipe is not None and (attention or attention_option):
        raise ValueError(f"attention={attention!r} must not come with a recipe, which names one; change it there")
    options = read_pairs(attention_option or [])
    check_asked(ask or (), attention, options)
    if output is not None:
        check_target(output)
    if recipe is not None:
        tree = parse_overrides(read_yaml(recipe), _overrides(model, revision))
        if (task := tree.get("task", "language")) != "language":
            raise ValueError(f"recipe={recipe!r} with task={task!r} has no audit; audits are of language models")
        asked = LanguageRecipe.from_tree(tree)
        named = None if asked.model.from_scratch else asked.model.path
    else:
        asked, named = None, model
    if revision is not None and (named is None or Path(named).exists()):
        raise ValueError(f"--revision {revision!r} is for hub models, and {named or recipe!r} is none; leave it out")
    if named is not None and Path(named).is_file():
        _check_config(named)
    elif named is not None:
        find_folder(named, revision if asked is None else asked.model.revision)
    # Nor for torch whose input is wrong.
    device = check_device(device)
    from hylora.auditing.audit import audit as run
    from hylora.auditing.opening import open_model, open_recipe

    console, errors = Console(), Console(stderr=True)
    with errors.status("") as status:
        if asked is not None:
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
        raise typer.Exit(_NO)


def _overrides(model: str | None, revision: str | None) -> list[str]:
    """What MODEL and --revision change in a recipe; the revision of its model is none of another's."""
    settings = {} if model is None else {"model.path": model}
    if model is not None or revision is not None:
        settings["model.revision"] = revision
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _check_config(file: str) -> None:
    """Refuse a file that is no config.json."""
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ValueError(
            f"model={file!r} is no config.json: it must hold JSON with a model_type; give that, a recipe (.yaml), a "
            "folder or a hub id"
        )
