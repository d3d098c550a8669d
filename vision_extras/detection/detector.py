# SPDX-License-Identifier: Apache-2.0
"""Detectors of the DETR family, which transformers brings: a set of boxes is matched to the objects that are there."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

from hylora.training.fields import expand_home
from vision_extras.images import IGNORED
from vision_extras.models.hub import HubModule

__all__ = ["Detection", "DetectorRecipe", "HubDetector", "build_detector", "load_detector"]


# Families whose loss is divided by the objects of all processes, and not by those of a process's pass alone.
_COUNTED_TOGETHER = ("conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer", "yolos")


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """A detector of transformers.

    Args:
        config: `model_type` and other entries of its config, for a detector with random weights; its backbone is
            `backbone_config`, likewise.
        path: hub id or folder of a pretrained detector, in place of `config`.
        backbone: hub id or folder of an image classifier of transformers with the backbone's shape, a finished run of
            task `images` for example: its weights are those that the backbone starts from.
    """

    config: dict[str, Any] | None = None
    path: str | None = None
    backbone: str | None = None

    def __post_init__(self) -> None:
        expand_home(self, "path", "backbone")
        if (self.config is None) == (self.path is None):
            raise ValueError(f"config={self.config!r} and path={self.path!r} must be given one and not the other")
        if self.backbone is not None and "backbone_config" not in (self.config or {}):
            raise ValueError(f"backbone={self.backbone!r} needs a config with a backbone_config")


class HubDetector(HubModule):
    """An object detector of transformers."""

    auto = AutoModelForObjectDetection
    families = MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
    kind = "object detector"

    @classmethod
    def _config(cls, entries: Mapping[str, Any], channels: int, classes: int) -> PreTrainedConfig:
        backbone = entries.get("backbone_config")
        if backbone is not None:
            entries = {**entries, "backbone_config": {"num_channels": channels, **backbone}}
        return super()._config(entries, channels, classes)

    @functools.cached_property
    def multiple(self) -> int:
        """Heights and widths must be multiples of it: of the stride, where an encoder doubles coarse features."""
        return self.stride if hasattr(self.model.config, "encoder_in_channels") else super().multiple

    def trunk_of(self, model: PreTrainedModel) -> nn.Module:
        """The backbone; of a detector without one, what comes before its heads."""
        found = [module for module in model.modules() if type(module).__name__.endswith("Backbone")]
        return found[-1] if found else model.base_model

    def features_of(self, output: Any) -> Tensor:
        """The last of the features that the detector takes from its backbone."""
        return output.feature_maps[-1] if "feature_maps" in output else output.last_hidden_state

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Images [B, C, H, W], and for the loss the objects of each, to what transformers gives."""
        return self.model(pixel_values=images, labels=targets, **self._options)

    def start_backbone(self, folder: str | PathLike) -> None:
        """Take the backbone's weights from a classifier that `save_pretrained` wrote.

        Raises:
            ValueError: if there is none, or it has others than the backbone.
        """
        backbone = self.trunk_of(self.model)
        try:
            learned = AutoModelForImageClassification.from_pretrained(folder).base_model.state_dict()
        except (OSError, ValueError) as error:
            raise ValueError(f"backbone={str(folder)!r} gives no image classifier: {error}") from error
        wanted = backbone.state_dict()
        # Some backbones hold the base of a classifier, others its parts. Norms of stages are a backbone's own.
        inner = f"{backbone.config.model_type}."
        names = {name: name.removeprefix(inner) for name in wanted if "hidden_states_norms" not in name}
        for name, source in names.items():
            if source not in learned or learned[source].shape != wanted[name].shape:
                raise ValueError(f"backbone={str(folder)!r} has no weight {source!r} of the backbone's shape")
        backbone.load_state_dict({name: learned[source] for name, source in names.items()}, strict=False)


class Detection(nn.Module):
    """A detector whose forward pass gives its loss.

    Args:
        network: the detector.
    """

    def __init__(self, network: HubDetector) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Tensor, boxes: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """In training the loss and how many objects there are; in evaluation scores [B, Q, classes] and boxes.

        The loss is the detector's own: a classification of each of its guesses, and the distance and overlap of those
        that are matched to objects. It divides by the objects of the pass, which is undone here, so that each object
        weighs the same in an update. Families whose classification is a mean over guesses (detr, yolos) keep that.

        Args:
            images: [B, C, H, W].
            boxes: [B, M, 4]: centre (x, y), width and height, in shares of the image.
            labels: [B, M]; -100 where there is no object.
        """
        if labels is None:
            output = self.network(images)
            logits = output.logits
            # Where no object is a class of its own, it is the last, and scores are shares.
            alone = logits.shape[-1] == self.network.model.config.num_labels
            return logits.sigmoid() if alone else logits.softmax(-1)[..., :-1], output.pred_boxes
        there = labels != IGNORED
        rows = zip(boxes, labels, there, strict=True)
        targets = [{"boxes": box[mask], "class_labels": label[mask]} for box, label, mask in rows]
        count = there.sum()
        return self.network(images, targets).loss * _normaliser(count, self.network.model.config.model_type), count


def _normaliser(objects: Tensor, family: str) -> Tensor:
    """What transformers divides the loss of a pass with so many objects by."""
    if family in _COUNTED_TOGETHER:
        objects = reduce(objects.float()[None])[0] / PartialState().num_processes
    return objects.clamp(min=1)


def build_detector(recipe: DetectorRecipe, channels: int, classes: int, draw: torch.Generator | None) -> HubDetector:
    """A detector.

    Args:
        recipe: of the detector.
        channels: of the images.
        classes: to tell apart.
        draw: gives the weights; None makes them on the meta device, with shapes alone.

    Raises:
        ValueError: naming a field of the recipe that cannot work.
    """
    if recipe.path is not None:
        return HubDetector.from_pretrained(recipe.path, classes, draw)
    network = HubDetector.from_config(recipe.config, channels, classes, draw)
    if recipe.backbone is not None and draw is not None:
        network.start_backbone(recipe.backbone)
    return network


def load_detector(folder: str | PathLike) -> HubDetector:
    """Read back what a run wrote; transformers' AutoModelForObjectDetection reads it as well."""
    return HubDetector.load(folder)
