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
from vision_extras.mavil.patches import audio_grid
from vision_extras.models.weights import drawn_from
from vision_extras.sounds.recipe import SoundsRecipe
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
    _config(recipe)
    try:
        split = load_clips(recipe.clips, video=False)
    except ValueError as error:
        raise RecipeError(f"clips.{error}") from error
    if not split.classes:
        raise RecipeError(f"clips.name={recipe.clips.name!r} has no labels to learn; name clips that have")
    if split.multilabel and recipe.loss == "ce":
        raise RecipeError("loss='ce' is for one label of each clip, and these may have several; set loss to bce")
    network = build_classifier(recipe, split.classes, generator("network", recipe.training.seed))
    model = SoundClassification(network, recipe.loss, recipe.model.train == "head")
    try:
        return SoundTask(model, split, recipe, share_of(accelerator))
    except ValueError as error:
        raise RecipeError(f"training: {error}") from error


def build_classifier(
    recipe: SoundsRecipe, classes: Sequence[str], draw: torch.Generator
) -> MavilForAudioClassification:
    """The classifier of a recipe at its first weights, in training mode.

    Args:
        recipe: of the run.
        classes: the name of each label.
        draw: gives the weights that are not learned yet.

    Raises:
        RecipeError: naming a field of the recipe that cannot work.
    """
    config, path = _config(recipe), recipe.model.path
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    config.drop_path = recipe.model.drop_path
    # What pipelines make of its numbers: a probability of each class, or shares of one.
    several = recipe.loss == "bce"
    config.problem_type = "multi_label_classification" if several else "single_label_classification"
    with drawn_from(draw):
        if path is None:
            return MavilForAudioClassification(config).train()
        try:
            network, found = MavilForAudioClassification.from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                # The classifier of other sounds.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise RecipeError(f"model.path={path!r} gives no audio encoder: {error}") from error
    for key, wrong in (("missing_keys", "is not there"), ("mismatched_keys", "has another shape")):
        names = [name if isinstance(name, str) else name[0] for name in found[key]]
        if lost := sorted(name for name in names if name.startswith("audio.")):
            raise RecipeError(f"model.path={path!r} gives no audio encoder: {lost[0]} {wrong}")
    return network.train()


def _config(recipe: SoundsRecipe) -> MavilConfig:
    """The shape of a classifier, with what can be told before clips are read."""
    model, clips = recipe.model, recipe.clips
    if model.path is None:
        try:
            config = MavilConfig(video=False, bands=clips.bands, **model.sizes)
        except ValueError as error:
            raise RecipeError(f"model: {error}") from error
    else:
        try:
            config = AutoConfig.from_pretrained(model.path)
        except (OSError, ValueError) as error:
            raise RecipeError(f"model.path={model.path!r} gives no audio encoder: {error}") from error
        if not isinstance(config, MavilConfig):
            raise RecipeError(
                f"model.path={model.path!r} is a network of type {config.model_type!r}, and must be of type 'mavil'"
            )
    if config.bands != clips.bands:
        raise RecipeError(
            f"clips.bands={clips.bands} must be the {config.bands} that the encoder of model.path={model.path!r} has "
            "learned from"
        )
    try:
        audio_grid(clips.steps, clips.bands, config.audio_patch)
    except ValueError as error:
        raise RecipeError(f"clips.seconds={clips.seconds}: {error}") from error
    return config


TASK = TaskKind(
    SoundsRecipe,
    make_task,
    advise=lambda folder: (
        f"next: after `import vision_extras.sounds`, transformers.pipeline('audio-classification', '{folder}') tells "
        "sounds apart"
    ),
)
