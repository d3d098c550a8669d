# SPDX-License-Identifier: Apache-2.0
"""`hylora images eval`: a trained classifier on images of any source, such as ImageNet-A, -R and -V2 (table 4.3)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hylora.environment import environment
from hylora.files import write_atomically
from hylora.training.recipe_loading import RecipeError, read_yaml

if TYPE_CHECKING:
    from torch import Tensor

    from vision_extras.images import ImagesRecipe, Split
    from vision_extras.recipe import ImageRecipe
    from vision_extras.sparse import OneShotRecipe

__all__ = [
    "RUN_HELP",
    "check_output",
    "evaluate",
    "folder_of",
    "outputs_by_name",
    "read_outputs",
    "read_split",
    "write_result",
]

RUN_HELP = "Folder of a finished run, or a file of other weights in it, such as average.safetensors."


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="Settings in place of the run's: images.path=..."),
    ] = None,
    sides: Annotated[list[int] | None, typer.Option(help="Resolutions to measure accuracy at, in pixels.")] = None,
    levels: Annotated[
        list[str] | None,
        typer.Option(help="Compressions to measure it at, without training: 0.9 of the weights, 2:4, 4bit."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="File with the network's output for each class of the images, a number from 0 a line."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What reports call the images; by default as the recipe.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the result, as JSON.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")] = False,
) -> None:
    """Evaluate a trained classifier: accuracy, loss, calibration, entropies, embeddings; accuracy by resolution.

    Of a compressible subspace also the accuracy at each level that subspace.measured has. With --levels also that of
    the network compressed to each, before and after its batch norms are tuned on images that it has learned from, as
    the section one_shot says.

    The images held out are looked at, or all where none are. Their channels are those that the network has learned
    from, and so are the mean and deviation that pixels are normalised by. Of the network's outputs only those count
    that stand for classes that the images have.

    Raises:
        ValueError: on wrong input, before anything is evaluated.
        OSError: if a file cannot be read or written.
    """
    check_output(output, overwrite)
    folder = folder_of(run)
    read_yaml(folder / "recipe.yaml")
    # A run that is not there shows before the seconds that these take to import.
    from accelerate import Accelerator

    from hylora.training.evaluation import evaluation_mode
    from vision_extras.metrics import ImageEvaluation, find_head
    from vision_extras.models import check_sides, load_network
    from vision_extras.recipe import ImageRecipe
    from vision_extras.sparse.compression import check_levels
    from vision_extras.sparse.one_shot import one_shot
    from vision_extras.subspaces import CompressibleSubspace
    from vision_extras.subspaces.curve import curve, measured_levels

    trained = ImageRecipe.load(folder / "recipe.yaml")
    recipe = ImageRecipe.load(folder / "recipe.yaml", ("evaluation.every=0", "one_shot.levels=[]", *(overrides or ())))
    sides, shape = sides or recipe.evaluation.sides, recipe.sampler.shape
    accelerator = Accelerator()
    network = load_network(run).to(accelerator.device)
    check_sides(network, [shape, *((side, side) for side in sides)])
    compressions = dataclasses.replace(recipe.one_shot, levels=tuple(map(_compression, levels or ())))
    if levels:
        if isinstance(network, CompressibleSubspace):
            raise ValueError(f"--levels {' '.join(levels)} is for plain networks; a subspace has subspace.measured")
        check_levels(network, compressions.levels, compressions.keep)
        calibration = _calibration(trained, compressions)
    images = _as_learned(recipe.images, trained.images)
    split = read_split(images)
    rows = split.held_out if len(split.held_out) else split.train
    outputs = _outputs(folder, split, classes)

    def classify(images: Tensor, labels: Tensor) -> Tensor:
        return network(images)[:, outputs]

    size, workers = recipe.evaluation.batch_size, recipe.training.workers
    evaluation = ImageEvaluation(classify, rows, split.plain, size, accelerator, workers=workers)
    with evaluation_mode(network):
        found: dict[str, Any] = evaluation.predictions(shape)
        if find_head(network) is not None:
            found |= evaluation.embeddings(network, shape)
        if sides:
            found["accuracy_by_side"] = evaluation.accuracies(sides)
        if isinstance(network, CompressibleSubspace):
            measured = measured_levels(network.compression, recipe.subspace.measured)
            found["curve"] = curve(network, measured, lambda: evaluation.predictions(shape))
        if levels:
            found["one_shot"] = one_shot(network, compressions, partial(evaluation.predictions, shape), calibration)
    result = {
        "kind": "images",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": str(run),
        "recipe": trained.to_tree(),
        "data": {
            "name": name or images.name,
            "source": dataclasses.asdict(images),
            "images": len(rows),
            "fingerprint": rows.fingerprint(),
            "outputs": outputs,
        },
        "shape": shape,
        "evaluation": found,
        "environment": environment(),
    }
    if accelerator.is_main_process:
        write_result(result, output)
        Console().print(_table(result))


def check_output(output: Path | None, overwrite: bool) -> None:
    """Refuse to replace a result that is not to be replaced.

    Raises:
        ValueError: naming it.
    """
    if output is not None and output.exists() and not overwrite:
        raise ValueError(f"--output {str(output)!r} exists; choose another name or add --overwrite")


def write_result(result: Mapping[str, Any], output: Path | None) -> None:
    """Write a result as JSON, where there is a place for it."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, json.dumps(result, indent=2) + "\n")


def folder_of(run: Path) -> Path:
    """The folder of a run that is named by it, or by a file of weights in it."""
    return run.parent if run.is_file() else run


def _compression(level: str) -> float | str:
    """A share as a number, and what else there is as it is."""
    try:
        return float(level)
    except ValueError:
        return level


def _calibration(trained: ImageRecipe, recipe: OneShotRecipe) -> Iterable[Tensor]:
    """Images that a network has learned from, as it saw them."""
    from vision_extras.sparse.one_shot import Calibration

    split, loop = read_split(trained.images), trained.training
    return Calibration(
        split.train, split.augmented(trained.augment), trained.sampler.shape, recipe, loop.seed, loop.workers
    )


def read_split(images: ImagesRecipe) -> Split:
    """The images of a recipe.

    Raises:
        RecipeError: if they cannot be had.
    """
    from vision_extras.images import load_split

    try:
        return load_split(images)
    except ValueError as error:
        raise RecipeError(f"images.{error}") from error


def _as_learned(images: ImagesRecipe, learned: ImagesRecipe) -> ImagesRecipe:
    """Images with the channels, mean and deviation of those learned from, where nothing else is said."""
    from vision_extras.images import plain_batches

    plain = plain_batches(learned)
    shown = {"channels": len(plain.mean), "mean": plain.mean, "std": plain.std}
    return dataclasses.replace(
        images, **{name: value for name, value in shown.items() if getattr(images, name) is None}
    )


def _outputs(run: Path, split: Split, classes: Path | None) -> list[int]:
    """The network's output for each class of the images."""
    taught = json.loads((run / "data.json").read_text(encoding="utf-8"))["classes"]
    if classes is not None:
        return read_outputs(classes, split.classes, len(taught))
    return outputs_by_name(taught, split.classes)


def outputs_by_name(taught: Sequence[str], classes: Sequence[str]) -> list[int]:
    """For each class of the images the output of that name.

    Args:
        taught: the name of each output.
        classes: of the images, all of them among those.

    Raises:
        ValueError: if a class was not taught.
    """
    numbers = {name: number for number, name in enumerate(taught)}
    unknown = [name for name in classes if name not in numbers]
    if unknown:
        raise ValueError(
            f"the images have class {unknown[0]!r}, which the network was not taught; say with --classes which of its "
            f"{len(taught)} outputs each of the {len(classes)} classes is"
        )
    return [numbers[name] for name in classes]


def read_outputs(path: Path, classes: Sequence[str], outputs: int) -> list[int]:
    """The numbers in a file, one a line.

    Args:
        path: of the file.
        classes: of the images, in alphabetical order, one for each number.
        outputs: of the network.

    Raises:
        ValueError: if a line is no number of an output, one is there twice, or there are not as many as classes.
        OSError: if the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8").split()
    wrong = next((line for line in lines if not line.isdecimal()), None)
    if wrong is not None:
        raise ValueError(f"--classes {str(path)!r} has {wrong!r}, which is no number from 0; write one a line")
    numbers = [int(line) for line in lines]
    if max(numbers, default=0) >= outputs:
        last = outputs - 1
        raise ValueError(f"--classes {str(path)!r} has {max(numbers)}, and the network's outputs go from 0 to {last}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--classes {str(path)!r} names an output twice; each class of the images has its own")
    if len(numbers) != len(classes):
        raise ValueError(
            f"--classes {str(path)!r} has {len(numbers)} numbers, and the images have {len(classes)} classes"
        )
    return numbers


def _table(result: dict[str, Any]) -> Table:
    data, (height, width) = result["data"], result["shape"]
    title = f"{data['name']}: {data['images']} images of {height}x{width} pixels"
    table = Table("metric", title=title, title_justify="left")
    table.add_column("value", justify="right")
    metrics = dict(result["evaluation"])
    by_side, along = metrics.pop("accuracy_by_side", {}), metrics.pop("curve", {})
    compressed = metrics.pop("one_shot", {})
    metrics |= {f"accuracy at {side}": value for side, value in by_side.items()}
    metrics |= {f"accuracy at level {level}": measured["accuracy"] for level, measured in along.items()}
    for level, measured in compressed.items():
        metrics |= {f"{name} compressed to {level}": value for name, value in measured.items() if "loss" not in name}
    for metric, value in metrics.items():
        table.add_row(metric.replace("_", " "), f"{value:.4f}")
    return table
