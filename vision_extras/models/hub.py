# SPDX-License-Identifier: Apache-2.0
"""Networks of transformers for images, from scratch or pretrained, as plain modules."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import IMAGE_PROCESSOR_NAME

from hylora.words import nearest
from vision_extras.models.weights import drawn_from

__all__ = ["MODEL_TYPE", "HubModule", "HubNetwork", "check_timm", "learned_images"]

# Of shapes; folders have the type that transformers gives them.
MODEL_TYPE = "hylora_hub"

# Large enough that every network has some positions, and a multiple of all patches but those of 14 pixels.
_PROBE_SIDE = 1024


class HubModule(nn.Module):
    """A network of transformers.

    Args:
        model: the network.
        processor: the entries of its image processor, which are written beside it; None for a network without one.
    """

    # Which class makes the networks, by family of their configs, and what they are.
    auto: ClassVar[type]
    families: ClassVar[Mapping[str, Any]]
    kind: ClassVar[str]

    def __init__(self, model: PreTrainedModel, processor: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self._options = _position_options(model)
        for layer in model.modules():
            # The layers of Swin. Their own would, for small images, set windows and shifts for all images after them.
            if hasattr(layer, "set_shift_and_window_size"):
                layer.set_shift_and_window_size = functools.partial(_set_shift, layer, layer.shift_size)

    @classmethod
    def from_config(
        cls, entries: Mapping[str, Any], channels: int, classes: int, draw: torch.Generator | None
    ) -> Self:
        """A network with random weights.

        Args:
            entries: `model_type`, and those entries of its config that are not the default.
            channels: of the images.
            classes: to tell apart.
            draw: gives the weights; None makes them on the meta device, with shapes alone.

        Raises:
            ValueError: if there is no such network.
        """
        config = cls._config(entries, channels, classes)
        try:
            with drawn_from(draw):
                return cls(cls.auto.from_config(config))
        except (ValueError, TypeError, RuntimeError, ImportError, ZeroDivisionError) as error:
            raise ValueError(f"config={dict(entries)!r} gives no network: {error}") from error

    @classmethod
    def from_pretrained(
        cls, path: str | PathLike, classes: int | None = None, draw: torch.Generator | None = None
    ) -> Self:
        """A network with trained weights.

        Args:
            path: hub id, or a folder that `save_pretrained` wrote.
            classes: to tell apart: where the network tells another number, its classifier starts anew. None for its
                own.
            draw: gives that classifier's weights; None makes the network on the meta device, with shapes alone.

        Raises:
            ValueError: if there is no such network.
        """
        labels = {} if classes is None else {"num_labels": classes}
        try:
            with drawn_from(draw):
                if draw is None:
                    config = AutoConfig.from_pretrained(path, architectures=[], **labels)
                    model = cls.auto.from_config(config)
                else:
                    model = cls.auto.from_pretrained(path, dtype=torch.float32, ignore_mismatched_sizes=True, **labels)
        except (OSError, ValueError) as error:
            raise ValueError(f"path={str(path)!r} gives no {cls.kind}: {error}") from error
        # They come in evaluation mode, in which batch norms learn no statistics.
        return cls(model.train(), _processor(path))

    @property
    def shape(self) -> dict[str, Any]:
        """What the network's shape follows from, as plain JSON values."""
        config = json.loads(self.model.config.to_json_string())
        return {"model_type": MODEL_TYPE, "config": config, "processor": self.processor}

    @classmethod
    def from_shape(cls, shape: Mapping[str, Any], draw: torch.Generator | None) -> Self:
        """A network of the shape of another, with random weights.

        Args:
            shape: of the other.
            draw: gives the weights; None makes them on the meta device, with shapes alone.
        """
        config = CONFIG_MAPPING[shape["config"]["model_type"]].from_dict(shape["config"])
        with drawn_from(draw):
            return cls(cls.auto.from_config(config), shape["processor"])

    @classmethod
    def _config(cls, entries: Mapping[str, Any], channels: int, classes: int) -> PreTrainedConfig:
        known = [name for name in cls.families if name in CONFIG_MAPPING]
        family = entries.get("model_type")
        if family not in known:
            raise ValueError(
                f"config.model_type={family!r} must be an {cls.kind} of transformers; the nearest is "
                f"{nearest(family, known)}"
            )
        # transformers would keep an entry that it does not know, and say nothing.
        names = {*CONFIG_MAPPING[family]().to_dict(), *CONFIG_MAPPING[family].attribute_map}
        for name in entries:
            if name not in names:
                raise ValueError(f"config.{name}={entries[name]!r} is unknown; the nearest is {nearest(name, names)}")
        # Named as none, or families with several classifiers would look for theirs in nothing.
        given = {"num_channels": channels, **entries, "num_labels": classes, "architectures": []}
        try:
            return AutoConfig.for_model(**given)
        except (StrictDataclassError, ValueError, TypeError) as error:
            raise ValueError(f"config={dict(entries)!r} is refused by transformers: {error}") from error

    @functools.cached_property
    def stride(self) -> int:
        """The least height and width that the network takes."""
        if hasattr(self.model, "timm_model"):
            return max(stage["reduction"] for stage in self.model.timm_model.feature_info)
        positions = self._positions(_PROBE_SIDE)
        return 1 if positions is None else round(_PROBE_SIDE / positions)

    @functools.cached_property
    def multiple(self) -> int:
        """Heights and widths must be multiples of it, as patches of a transformer leave out what is over."""
        patch = getattr(self.model.config, "patch_size", None)
        if patch != self.stride:
            return 1
        return 1 if self._positions(2 * patch - 1) == 2 else patch

    def _positions(self, side: int) -> int | None:
        """How many positions of features an image has along a side at the end; None where the network hides it."""
        with torch.device("meta"):
            trunk = self.trunk_of(type(self.model)(self.model.config).eval())
            images = torch.empty(1, getattr(self.model.config, "num_channels", 3), side, side)
            try:
                features = self.features_of(trunk(pixel_values=images, **_position_options(trunk)))
            except (AttributeError, TypeError, ValueError, RuntimeError):
                return None
        if features.ndim == 4:
            return features.shape[-1]
        # Tokens of other kinds than patches are few.
        return math.isqrt(features.shape[1]) if features.ndim == 3 else None

    def trunk_of(self, model: PreTrainedModel) -> nn.Module:
        """The part of a model like this one's that makes features of images."""
        return model.base_model

    def features_of(self, output: Any) -> Tensor:
        """The last features with positions, [B, C, h, w] or [B, h * w, C], in what that part gives."""
        return output.last_hidden_state

    def save(self, folder: str | PathLike, state: Mapping[str, Tensor] | None = None) -> None:
        """Write what transformers reads.

        Args:
            folder: to write into.
            state: the weights, where this module holds only a share of them; None for its own.
        """
        if state is not None:
            state = {name.removeprefix("model."): value for name, value in state.items()}
        self.model.save_pretrained(folder, state_dict=state)
        if self.processor is not None:
            text = json.dumps(dict(self.processor), indent=2) + "\n"
            Path(folder, IMAGE_PROCESSOR_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | PathLike) -> Self:
        """Read back what `save` wrote."""
        return cls.from_pretrained(folder, draw=torch.Generator())


class HubNetwork(HubModule):
    """An image classifier of transformers."""

    auto = AutoModelForImageClassification
    families = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    kind = "image classifier"

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, classes]."""
        return self.model(pixel_values=images, **self._options).logits


def check_timm() -> None:
    """Refuse networks of timm where it cannot be imported.

    Raises:
        ValueError: saying what to install.
    """
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"name='timm' needs timm, which cannot be imported ({error}); timm needs torchvision: install the build "
            "of it that belongs to your torch, and then timm"
        ) from error


def _set_shift(layer: nn.Module, shift: int, resolution: tuple[int, int]) -> None:
    """Shift a layer's windows unless one of them covers the features, which are padded where they are smaller."""
    layer.shift_size = shift if min(resolution) > layer.window_size else 0


def learned_images(path: str | PathLike) -> dict[str, Any]:
    """What images a pretrained network has learned from: their `channels`, and the `mean` and `std` of their pixels.

    Args:
        path: hub id, or a folder that `save_pretrained` wrote.

    Raises:
        ValueError: if there is no such network.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"path={str(path)!r} gives no network: {error}") from error
    found = {"channels": config.num_channels} if hasattr(config, "num_channels") else {}
    processor = _processor(path) or {}
    if processor.get("do_normalize"):
        found |= {"mean": tuple(processor["image_mean"]), "std": tuple(processor["image_std"])}
    return found


def _processor(path: str | PathLike) -> dict[str, Any] | None:
    try:
        return ImageProcessingMixin.get_image_processor_dict(path)[0]
    except OSError:
        return None


def _position_options(model: nn.Module) -> dict[str, bool]:
    """What lets a transformer take other resolutions than it was made for."""
    name = "interpolate_pos_encoding"
    return {name: True} if name in inspect.signature(model.forward).parameters else {}
