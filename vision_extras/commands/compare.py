# SPDX-License-Identifier: Apache-2.0
"""`hylora images compare`: how much two trained classifiers say the same of images that neither has learned from."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hylora.environment import environment
from hylora.training.recipe_loading import read_yaml
from vision_extras.commands.evaluate import RUN_HELP, check_output, folder_of, read_split, write_result

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vision_extras.images import Split
    from vision_extras.recipe import ImageRecipe

__all__ = ["compare"]


def compare(
    sparse: Annotated[Path, typer.Argument(metavar="SPARSE", help=RUN_HELP)],
    dense: Annotated[Path, typer.Argument(metavar="DENSE", help="The same of another classifier, or this run's.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="Settings in place of both runs': images.path=..."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the result, as JSON.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")] = False,
) -> None:
    """Compare two trained classifiers, sparse and dense or any other: what each comes to, and how much they agree.

    Agreement is the share of the images that both tell the same class for, and cross entropy the mean of
    -sum p_dense log p_sparse, in nats. The images are those that the runs have held out; both must have held out the
    same, and seen them alike.

    Raises:
        ValueError: on wrong input, before anything is evaluated.
        OSError: if a file cannot be read or written.
    """
    check_output(output, overwrite)
    paths = {"sparse": sparse, "dense": dense}
    for path in paths.values():
        read_yaml(folder_of(path) / "recipe.yaml")
    # Runs that are not there show before the seconds that these take to import.
    from accelerate import Accelerator

    from hylora.training.evaluation import evaluation_mode
    from vision_extras.metrics import ImageEvaluation
    from vision_extras.models import check_sides, load_network
    from vision_extras.recipe import ImageRecipe

    accelerator, settings = Accelerator(), ("evaluation.every=0", *(overrides or ()))
    recipes = {name: ImageRecipe.load(folder_of(path) / "recipe.yaml", settings) for name, path in paths.items()}
    splits = {name: read_split(recipe.images) for name, recipe in recipes.items()}
    _check_alike(paths, recipes, splits)
    networks = {name: load_network(path).to(accelerator.device) for name, path in paths.items()}
    split, recipe = splits["sparse"], recipes["sparse"]
    shape, size, workers = recipe.sampler.shape, recipe.evaluation.batch_size, recipe.training.workers
    images, plain = split.held_out, split.plain
    evaluations = {
        name: ImageEvaluation(partial(_logits, network), images, plain, size, accelerator, workers=workers)
        for name, network in networks.items()
    }
    for network in networks.values():
        check_sides(network, [shape])
    with evaluation_mode(networks["sparse"]), evaluation_mode(networks["dense"]):
        found: dict[str, Any] = {name: of.predictions(shape) for name, of in evaluations.items()}
        found |= evaluations["sparse"].agreement(evaluations["dense"].classify, shape)
    result = {
        "kind": "image_pair",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": {name: str(path) for name, path in paths.items()},
        "recipes": {name: recipe.to_tree() for name, recipe in recipes.items()},
        "images": len(images),
        "fingerprint": images.fingerprint(),
        "shape": shape,
        "evaluation": found,
        "environment": environment(),
    }
    if accelerator.is_main_process:
        write_result(result, output)
        Console().print(_table(result))


def _logits(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return network(images)


def _check_alike(paths: dict[str, Path], recipes: dict[str, ImageRecipe], splits: dict[str, Split]) -> None:
    """Refuse runs that have not held out the same images, or have seen them in other ways.

    Raises:
        ValueError: naming the runs and what differs.
    """
    if not len(splits["sparse"].held_out):
        raise ValueError(f"{str(paths['sparse'])!r} has held out no images to compare on; see images.held_out")
    seen = [
        {
            "held-out images": splits[name].held_out.fingerprint(),
            "classes": splits[name].classes,
            "means, deviations or crops of images": splits[name].plain,
            "resolutions": recipes[name].sampler.shape,
        }
        for name in paths
    ]
    for what, of in seen[0].items():
        if of != seen[1][what]:
            raise ValueError(
                f"{str(paths['sparse'])!r} and {str(paths['dense'])!r} have different {what}; compare runs that have "
                "learned from the same images"
            )


def _table(result: dict[str, Any]) -> Table:
    table = Table("metric", *result["runs"], "both", title=f"{result['images']} held-out images", title_justify="left")
    found = result["evaluation"]
    for metric in found["sparse"]:
        table.add_row(metric.replace("_", " "), *(f"{found[name][metric]:.4f}" for name in result["runs"]), "")
    for metric in ("agreement", "cross_entropy"):
        table.add_row(metric.replace("_", " "), "", "", f"{found[metric]:.4f}")
    return table
