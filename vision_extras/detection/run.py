# SPDX-License-Identifier: Apache-2.0
"""Training a detector: from a recipe to a folder that `load_detector` reads."""

from __future__ import annotations

import importlib.util

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from hylora.randomness import generator
from hylora.training.evaluation import evaluation_mode
from hylora.training.processes import share_of
from hylora.training.recipe import RecipeError
from hylora.training.tasks import TaskKind
from hylora.training.whole_run import RunResult, run
from vision_extras.curricula.scales import Shape
from vision_extras.detection.coco import read_coco, read_object_dataset
from vision_extras.detection.detector import Detection, HubDetector, build_detector
from vision_extras.detection.objects import ObjectSplit
from vision_extras.detection.recipe import DetectionRecipe, ObjectsRecipe
from vision_extras.detection.scenes import read_scenes
from vision_extras.detection.task import DetectionTask
from vision_extras.planned import refuse_sides

__all__ = ["TASK", "make_task", "train"]

# What the matching of boxes to objects and their evaluation need.
_PACKAGES = ("scipy", "pycocotools")


def train(recipe: DetectionRecipe) -> RunResult:
    """Train as `hylora.training.run`; `vision_extras.detection.detector.load_detector` reads the result's folder."""
    return run(recipe, make_task)


def make_task(recipe: DetectionRecipe, accelerator: Accelerator) -> DetectionTask:
    """The task of a recipe: its images found, and its detector at its first weights.

    Raises:
        RecipeError: if the recipe cannot work here.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(f"task='detection' needs {' and '.join(missing)}; pip install 'hylora[vision]'")
    refuse_sides(recipe, _build(recipe, classes=2, draw=False))
    try:
        split = _read(recipe.objects)
    except ValueError as error:
        raise RecipeError(f"objects.{error}") from error
    if not len(split.train):
        raise RecipeError(f"objects.name={recipe.objects.name!r} leaves no image to learn from")
    network = _build(recipe, len(split.classes), draw=True)
    passes = _passes(network, recipe)
    try:
        return DetectionTask(Detection(network), split, recipe, passes, share_of(accelerator))
    except ValueError as error:
        raise RecipeError(f"training under sampler.name={recipe.sampler.name!r}: {error}") from error


def _build(recipe: DetectionRecipe, classes: int, draw: bool) -> HubDetector:
    weights = generator("network", recipe.training.seed) if draw else None
    try:
        return build_detector(recipe.model, recipe.objects.channels, classes, weights)
    except ValueError as error:
        raise RecipeError(f"model.{error}") from error


def _passes(network: HubDetector, recipe: DetectionRecipe) -> dict[Shape, int]:
    """Operations of a forward pass on an image of each resolution, which shows that the detector takes it."""
    found = {}
    for shape in recipe.sampler.shapes(recipe.training.epochs):
        counter = FlopCounterMode(display=False)
        try:
            with evaluation_mode(network), torch.no_grad(), counter:
                network(torch.zeros(1, recipe.objects.channels, *shape))
        except (ValueError, RuntimeError) as error:
            height, width = shape
            raise RecipeError(f"model: the detector fails on an image of {height}x{width} pixels: {error}") from error
        found[shape] = counter.get_total_flops()
    return found


def _read(objects: ObjectsRecipe) -> ObjectSplit:
    if objects.name == "scenes":
        return read_scenes(objects.scenes, objects.side, objects.most, objects.held_out)
    splits = objects.train_split, objects.held_out_split
    if objects.name == "coco":
        return read_coco(objects.path, *splits)
    return read_object_dataset(objects.path, *splits, objects.image_column, objects.objects_column)


TASK = TaskKind(
    DetectionRecipe,
    make_task,
    advise=lambda folder: f"next: vision_extras.detection.detector.load_detector('{folder}') gives the detector",
)
