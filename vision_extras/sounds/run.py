# SPDX-License-Identifier: Apache-2.0
"""Training a classifier of sounds: from a recipe to a folder that transformers' pipelines read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from transformers import AutoConfig

from hylora.randomness import generator
from hylora.training.processes import share_of
from hylora.training.recipe import RecipeError
from hylora.training.tasks import TaskKind
from hylora.training.whole_run import RunResult, run
from vision_extras.clips.sources import load_clips
from vision_extras.mavil import MavilConfig, MavilForAudioClassification
from vision_extras.models.weights import drawn_from
from vision_extras.sounds.recipe import SoundModelRecipe, SoundsRecipe
from vision_extras.sounds.task import SoundClassification, SoundTask

__all__ = ["TASK", "build_classifier", "make_task", "train"]


def train(recipe: SoundsRecipe) -> RunResult:
    """Train as `hylora.training.run`; `pipeline("audio-classification", folder)` of transformers reads the result,
    once `vision_extras.sounds` is imported."""
    return run(recipe, make_task)


def make_task(recipe: SoundsRecipe, accelerator: Accelerator) -> SoundTask:
    """The task of a recipe: its clips found, and its classifier at its first weights.

    Raises:
        RecipeError: if the recipe cannot work here.
    """
    _config(recipe.model, recipe.clips.bands)
    try:
        split = load_clips(recipe.clips, video=False)
    except ValueError as error:
        raise RecipeError(f"clips.{error}") from error
    if not split.classes:
        raise RecipeError(f"clips.name={recipe.clips.name!r} has no labels to learn; name clips that have")
    if split.multilabel and recipe.loss == "ce":
        raise RecipeError("loss='ce' is for one label of each clip, and these may have several; set loss to bce")
    draw = generator("network", recipe.training.seed)
    network = build_classifier(recipe.model, recipe.clips.bands, split.classes, draw)
    # What transformers makes of the numbers: a probability of each class, or shares of one.
    kind = "multi_label_classification" if recipe.loss == "bce" else "single_label_classification"
    network.config.problem_type = kind
    model = SoundClassification(network, recipe.loss, recipe.model.train == "head")
    try:
        return SoundTask(model, split, recipe, share_of(accelerator))
    except ValueError as error:
        raise RecipeError(f"training: {error}") from error


def build_classifier(
    recipe: SoundModelRecipe, bands: int, classes: Sequence[str], draw: torch.Generator
) -> MavilForAudioClassification:
    """A classifier, in training mode.

    Args:
        recipe: of the classifier.
        bands: of spectrograms.
        classes: the name of each label.
        draw: gives the weights that are not learned yet.

    Raises:
        RecipeError: naming a field of the recipe that cannot work.
    """
    config = _config(recipe, bands)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    config.drop_path = recipe.drop_path
    with drawn_from(draw):
        if recipe.path is None:
            return MavilForAudioClassification(config).train()
        try:
            network, found = MavilForAudioClassification.from_pretrained(
                recipe.path,
                config=config,
                dtype=torch.float32,
                # The classifier of other sounds.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise RecipeError(f"model.path={recipe.path!r} gives no audio encoder: {error}") from error
    if missing := sorted(name for name in found["missing_keys"] if name.startswith("audio.")):
        raise RecipeError(f"model.path={recipe.path!r} gives no audio encoder: {missing[0]} is not there")
    return network.train()


def _config(recipe: SoundModelRecipe, bands: int) -> MavilConfig:
    """The shape of a classifier, with what can be told before clips are read."""
    if recipe.path is None:
        try:
            return MavilConfig(video=False, bands=bands, **recipe.sizes)
        except ValueError as error:
            raise RecipeError(f"model.{error}") from error
    try:
        config = AutoConfig.from_pretrained(recipe.path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.path={recipe.path!r} gives no audio encoder: {error}") from error
    if not isinstance(config, MavilConfig):
        raise RecipeError(
            f"model.path={recipe.path!r} is a network of type {config.model_type!r}, and must be of type 'mavil'"
        )
    if config.bands != bands:
        raise RecipeError(
            f"clips.bands={bands} must be the {config.bands} that the encoder of model.path={recipe.path!r} has "
            "learned from"
        )
    return config


TASK = TaskKind(
    SoundsRecipe,
    make_task,
    advise=lambda folder: (
        f"next: after `import vision_extras.sounds`, transformers.pipeline('audio-classification', '{folder}') tells "
        "sounds apart"
    ),
)
