# SPDX-License-Identifier: Apache-2.0
"""`hylora images eval`: a trained classifier on images of any source, such as ImageNet-A, -R and -V2 (table 4.3)."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from hylora.environment import environment
from hylora.files import write_atomically
from hylora.training.evaluation import evaluation_mode
from hylora.training.recipe import RecipeError
from vision_extras.images import load_split
from vision_extras.metrics import ImageEvaluation, find_head
from vision_extras.models import load_network
from vision_extras.recipe import ImageRecipe

__all__ = ["evaluate", "read_classes"]


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="Settings in place of the run's: images.path=..."),
    ] = None,
    part: Annotated[Literal["held_out", "train"], typer.Option(help="Which part of the images.")] = "held_out",
    sides: Annotated[list[int] | None, typer.Option(help="Resolutions to measure accuracy at, in pixels.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="File with the network's output for each class of the images, a number from 0 a line."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What reports call the images; by default as the recipe.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the result, as JSON.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")] = False,
) -> None:
    """Evaluate a trained classifier: accuracy, loss, calibration, entropies, embeddings; and accuracy by resolution.

    Raises:
        ValueError: on wrong input, before anything is evaluated.
        OSError: if a file cannot be read or written.
    """
    if output is not None and output.exists() and not overwrite:
        raise ValueError(f"--output {str(output)!r} exists; choose another name or add --overwrite")
    trained = ImageRecipe.load(run / "recipe.yaml")
    recipe = ImageRecipe.load(run / "recipe.yaml", overrides or ())
    accelerator = Accelerator()
    network = load_network(run).to(accelerator.device)
    try:
        split = load_split(recipe.images)
    except ValueError as error:
        raise RecipeError(f"images.{error}") from error
    images = getattr(split, part)
    if not len(images):
        raise ValueError(f"--part {part} has no images; set images.held_out to a share such as 0.2, or name the other")
    outputs = None if classes is None else read_classes(classes, int(images.labels.max()) + 1)

    def classify(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = network(images)
        return logits if outputs is None else logits[:, outputs]

    evaluation = ImageEvaluation(classify, images, split.plain, recipe.evaluation.batch_size, accelerator)
    shape = recipe.sampler.shape
    with evaluation_mode(network):
        found: dict[str, Any] = evaluation.predictions(shape)
        if find_head(network) is not None:
            found |= evaluation.embeddings(network, shape)
        if sides := sides or recipe.evaluation.sides:
            found["accuracy_by_side"] = evaluation.accuracies(sides)
    result = {
        "kind": "images",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": str(run.absolute()),
        "recipe": trained.to_tree(),
        "images": dataclasses.asdict(recipe.images),
        "data": {
            "name": name or recipe.images.name,
            "part": part,
            "images": len(images),
            "fingerprint": images.fingerprint(),
            "classes": None if outputs is None else outputs,
        },
        "shape": list(shape),
        "evaluation": found,
        "environment": environment(),
    }
    if not accelerator.is_main_process:
        return
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, json.dumps(result, indent=2) + "\n")
    Console().print(_table(result))


def read_classes(path: Path, count: int) -> list[int]:
    """The numbers in a file, one a line.

    Args:
        path: of the file.
        count: how many classes there are at least.

    Raises:
        ValueError: if a line is no number from 0, a number is there twice, or there are too few.
        OSError: if the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8").split()
    wrong = next((line for line in lines if not line.isdecimal()), None)
    if wrong is not None:
        raise ValueError(f"--classes {str(path)!r} has {wrong!r}, which is no number from 0; write one a line")
    numbers = [int(line) for line in lines]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--classes {str(path)!r} names an output twice; each class of the images has its own")
    if len(numbers) < count:
        raise ValueError(f"--classes {str(path)!r} has {len(numbers)} numbers, and the images have {count} classes")
    return numbers


def _table(result: dict[str, Any]) -> Table:
    data = result["data"]
    height, width = result["shape"]
    title = f"{data['name']} ({data['part']}), {data['images']} images of {height} by {width} pixels"
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in result["evaluation"].items():
        if isinstance(value, dict):
            for side, accuracy in value.items():
                table.add_row(f"accuracy at {side}", f"{accuracy:.4f}")
        else:
            table.add_row(name.replace("_", " "), f"{value:.4f}")
    return table
