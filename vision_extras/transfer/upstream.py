# SPDX-License-Identifier: Apache-2.0
"""What a finished run left, as the beginning of another: its network with a new classifier, and its images' look."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hylora.training.recipe_loading import RecipeError, build, read_yaml
from vision_extras.images import ImagesRecipe, plain_batches
from vision_extras.metrics import find_head
from vision_extras.models import hub, own, resnet, vgg
from vision_extras.models.build import network_of
from vision_extras.models.own import OwnNetwork
from vision_extras.models.weights import CONFIG_NAME, drawn_from, read_config, read_weights

__all__ = ["network_of_run", "shown_to_run"]

_RECIPE = "recipe.yaml"
_TYPES = (resnet.MODEL_TYPE, vgg.MODEL_TYPE, own.MODEL_TYPE)


def shown_to_run(path: str | PathLike) -> dict[str, Any]:
    """What images a run has learned from: their `channels`, and the `mean` and `std` that they were normalised by.

    Args:
        path: folder of a finished run of `images`, or a file of weights in it.

    Raises:
        ValueError: if it is none.
    """
    folder = _folder(path)
    try:
        plain = plain_batches(build(ImagesRecipe, read_yaml(folder / _RECIPE).get("images")))
    except (RecipeError, ValueError) as error:
        raise ValueError(f"path={str(path)!r} is no run of task=images: {error}") from error
    return {"channels": len(plain.mean), "mean": tuple(plain.mean), "std": tuple(plain.std)}


def network_of_run(path: str | PathLike, classes: int, draw: torch.Generator | None) -> nn.Module:
    """A run's network with a new, dense classifier; all else of it is as the run left it, zeros and statistics too.

    Weights of the classifier are drawn as `torch.nn.Linear` draws them: uniformly, by Kaiming's rule (section 4.4.2).
    It has a bias where the one before had one.

    Args:
        path: folder of a finished run, or a file of weights in it, such as `average.safetensors`.
        classes: to tell apart.
        draw: gives the classifier's weights; None makes the network on the meta device, with shapes alone.

    Raises:
        ValueError: if there is no such network, or it cannot be given a classifier.
    """
    folder = _folder(path)
    shape = _reshaped(path, read_config(folder), classes)
    try:
        made = network_of(shape)
        network = made.module if isinstance(made, OwnNetwork) else made
        name, head = _head(network)
        trained = {key: value for key, value in read_weights(path).items() if not key.startswith(f"{name}.")}
        found = network.load_state_dict(trained, strict=False)
        missing = [key for key in found.missing_keys if not key.startswith(f"{name}.")]
        if missing or found.unexpected_keys:
            raise ValueError(f"weights do not fit the network: {[*missing, *found.unexpected_keys][:5]}")
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"path={str(path)!r} cannot be given {classes} classes: {error}") from error
    if draw is None:
        return made.to("meta")
    with drawn_from(draw):
        head.reset_parameters()
    return made


def _folder(path: str | PathLike) -> Path:
    """A run's folder.

    Raises:
        ValueError: if it is none.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for name in (_RECIPE, CONFIG_NAME):
        if not (Path(path).exists() and (folder / name).is_file()):
            raise ValueError(
                f"path={str(path)!r} is no folder of a finished run: there is no {name} in it. Name one that training "
                "has finished, or set model.name=transformers for a network of the hub"
            )
    return folder


def _reshaped(path: str | PathLike, shape: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """A network's shape, with another number of classes."""
    kind = shape.get("model_type")
    if kind not in _TYPES:
        remedy = (
            "write one of its levels and train that, or leave subspace.kind at none in the run"
            if str(kind).startswith("hylora_") and kind != hub.MODEL_TYPE
            else "set model.name=transformers for networks of the hub"
        )
        raise ValueError(f"path={str(path)!r} holds a network of type {kind!r}, which is not taken over; {remedy}")
    if kind == own.MODEL_TYPE:
        return {**shape, "arguments": {**shape["arguments"], "classes": classes}}
    return {**shape, "classes": classes}


def _head(network: nn.Module) -> tuple[str, nn.Module]:
    head = find_head(network)
    if head is None:
        raise ValueError("it ends in neither a linear layer nor a 1x1 convolution, so that there is no telling where")
    return next(name for name, module in network.named_modules() if module is head), head
