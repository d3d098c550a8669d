# SPDX-License-Identifier: Apache-2.0
"""Networks by name: made, saved and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hylora.training.fields import check_choice, check_range, expand_home, refuse_unread
from hylora.words import nearest
from vision_extras.metrics.embeddings import find_head
from vision_extras.models import hub, own, resnet, vgg
from vision_extras.models.hub import HubNetwork, check_timm
from vision_extras.models.own import OwnNetwork
from vision_extras.models.resnet import ResNet
from vision_extras.models.resnet_config import RESNETS, ResNetConfig
from vision_extras.models.vgg import VGG, VGGS, VGGConfig
from vision_extras.models.weights import read_config, read_weights

__all__ = [
    "LEVEL_TYPE",
    "NETWORKS",
    "SUBSPACE_TYPE",
    "ModelRecipe",
    "build_network",
    "load_network",
    "network_of",
    "resnet_config",
    "save_network",
    "shape_of",
]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """A network for images.

    Args:
        name: which one; resnet20 to resnet110, cpreresnet20, resnet18_cifar and vgg11 are for small images.
            `transformers` and `timm` have more, and `package.module:function` is a factory of one's own, which is
            called with `channels`, `classes` and what `config` has. `run` is the network that a finished run left in
            `path`, with a new classifier.
        norm: of `batch` statistics, or of `group`s of 8 channels in each image alone.
        width: factor on its channels, which are rounded up to multiples of 8.
        depth: factor on the blocks of each stage, at least one of which stays.
        dropout: rate before the classifier.
        stochastic_depth: share of images for which the last block is passed over; less for those before it.
        config: for transformers `model_type` and other entries of its config; for timm `architecture` and
            `model_args`; for one's own factory, its other arguments.
        path: hub id or folder of a pretrained network of transformers, in place of `config`; of `run` its folder, or
            a file of weights in it.
        train: `head` trains the classifier alone, and all else stays as it is: linear finetuning. Dropout is off.
    """

    name: str = "resnet8"
    norm: Literal["batch", "group"] = "batch"
    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    config: dict[str, Any] | None = None
    path: str | None = None
    train: Literal["all", "head"] = "all"

    def __post_init__(self) -> None:
        if self.name not in NETWORKS and ":" not in self.name:
            raise ValueError(
                f"name={self.name!r} must be {' | '.join(NETWORKS)}, or package.module:function; the nearest is "
                f"{nearest(self.name, NETWORKS)}"
            )
        check_choice(self, "norm", "train")
        check_range(self, "width", "depth", above=0)
        check_range(self, "dropout", "stochastic_depth", least=0, below=1)
        expand_home(self, "path")
        if self.path is not None and self.name not in ("run", "transformers"):
            raise ValueError(
                f"name={self.name!r} is a network with random weights, and path={self.path!r} has one that is "
                "trained; leave one out. A run's network has name=run, and one of the hub name=transformers"
            )
        if self.path is None and (self.name == "run" or self.train == "head"):
            what = f"train={self.train!r}" if self.name != "run" else "name='run'"
            raise ValueError(f"path=None must name a trained network, which {what} begins with")
        options = set().union(*_OPTIONS.values())
        refuse_unread(self, *options.difference(_OPTIONS[_builder(self.name)]))
        if self.name == "transformers" and (self.config is None) == (self.path is None):
            raise ValueError(f"config={self.config!r} and path={self.path!r} must be given one and not the other")
        for name in ("channels", "classes"):
            if ":" in self.name and name in (self.config or {}):
                raise ValueError(f"config.{name}={self.config[name]!r} must be left out: the images say it")
        if self.name == "timm" and "architecture" not in (self.config or {}):
            raise ValueError(f"config={self.config!r} must have an architecture of timm")


# A recipe, the images' channels, the number of classes, and what gives the weights; None for shapes alone.
Builder = Callable[[ModelRecipe, int, int, torch.Generator | None], nn.Module]


def resnet_config(recipe: ModelRecipe, channels: int, classes: int) -> ResNetConfig:
    """The shape of a network whose name is one of `RESNETS`."""
    return ResNetConfig(channels=channels, classes=classes, **_options(recipe, _build_resnet), **RESNETS[recipe.name])


def _build_resnet(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> ResNet:
    return ResNet(resnet_config(recipe, channels, classes), draw)


def _build_vgg(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> VGG:
    return VGG(VGGConfig(name=recipe.name, channels=channels, classes=classes, **_options(recipe, _build_vgg)), draw)


def _build_hub(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> HubNetwork:
    if recipe.path is None:
        return HubNetwork.from_config(recipe.config, channels, classes, draw)
    return HubNetwork.from_pretrained(recipe.path, classes, draw)


def _build_timm(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> HubNetwork:
    check_timm()
    arguments = {"in_chans": channels, **recipe.config.get("model_args", {})}
    config = {**recipe.config, "model_type": "timm_wrapper", "model_args": arguments}
    return HubNetwork.from_config(config, channels, classes, draw)


def _build_run(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> nn.Module:
    # Here, as it makes networks by this module.
    from vision_extras.transfer.upstream import network_of_run

    return network_of_run(recipe.path, classes, draw)


def _build_own(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> OwnNetwork:
    return OwnNetwork.make(recipe.name, draw, channels=channels, classes=classes, **(recipe.config or {}))


NETWORKS: dict[str, Builder] = {
    **dict.fromkeys(RESNETS, _build_resnet),
    **dict.fromkeys(VGGS, _build_vgg),
    "transformers": _build_hub,
    "timm": _build_timm,
    "run": _build_run,
}

# The fields of the recipe that each reads.
_OPTIONS: dict[Builder, tuple[str, ...]] = {
    _build_resnet: ("norm", "width", "depth", "dropout", "stochastic_depth"),
    _build_vgg: ("norm", "width", "dropout"),
    _build_hub: ("config", "path"),
    _build_timm: ("config",),
    _build_run: ("path",),
    _build_own: ("config",),
}

# The classes of networks by the type that their shapes have; folders of transformers have its own types.
_KINDS = {resnet.MODEL_TYPE: ResNet, vgg.MODEL_TYPE: VGG, own.MODEL_TYPE: OwnNetwork, hub.MODEL_TYPE: HubNetwork}

# The types of folders that compressible subspaces write.
SUBSPACE_TYPE = "hylora_subspace"
LEVEL_TYPE = "hylora_level"


def _builder(name: str) -> Builder:
    return NETWORKS.get(name, _build_own)


def _options(recipe: ModelRecipe, builder: Builder) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in _OPTIONS[builder]}


def build_network(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> nn.Module:
    """A network from images [B, channels, H, W] to logits [B, classes].

    Args:
        recipe: of the network.
        channels: of the images.
        classes: to tell apart.
        draw: gives the weights; None makes them on the meta device, with shapes alone.

    Raises:
        ValueError: naming a field of the recipe that cannot work.
    """
    network = _builder(recipe.name)(recipe, channels, classes, draw)
    if recipe.train == "head":
        _freeze(network)
    return network


def _freeze(network: nn.Module) -> None:
    """Leave nothing of a network to be trained but its classifier."""
    head = find_head(network)
    if head is None:
        raise ValueError("train='head' needs a network that ends in a linear layer or a 1x1 convolution")
    network.requires_grad_(False)
    head.requires_grad_(True)


def save_network(network: nn.Module, folder: str | PathLike, state: Mapping[str, Tensor] | None = None) -> None:
    """Write a network's weights as safetensors and its shape as `config.json`, as transformers does.

    Weights of which many are 0 are packed, but for networks of transformers, which others have to read.

    Args:
        network: made by `build_network`, or a compressible subspace of it.
        folder: to write into.
        state: its weights, where this process holds only a share of them; None for its own.
    """
    network.save(folder, state)


def load_network(folder: str | PathLike, network: nn.Module | None = None) -> nn.Module:
    """Read back what `save_network` wrote: the network, or the compressible subspace.

    Args:
        folder: that was written into; or one of a level that a subspace wrote, for a plain network; or a file of other
            weights of the network in its folder, such as `average.safetensors`.
        network: a module of one's own to read the weights into, where no factory made it.

    Raises:
        ValueError: if the network cannot be made.
    """
    if Path(folder).is_file():
        made = load_network(Path(folder).parent, network)
        made.load_state_dict(read_weights(folder))
        return made
    kind = read_config(folder).get("model_type")
    if kind in (SUBSPACE_TYPE, LEVEL_TYPE):
        # Here, as subspaces are made of networks.
        from vision_extras.subspaces import CompressibleSubspace

        load = CompressibleSubspace.load_level if kind == LEVEL_TYPE else CompressibleSubspace.from_pretrained
        return load(folder, network)
    if kind == own.MODEL_TYPE:
        return OwnNetwork.load(folder, network)
    return _KINDS.get(kind, HubNetwork).load(folder)


def shape_of(network: nn.Module) -> dict[str, Any] | None:
    """What `network_of` makes such a network of, as plain JSON values; None for a module that no class here made."""
    return network.shape if isinstance(network, tuple(_KINDS.values())) else None


def network_of(shape: Mapping[str, Any] | None, network: nn.Module | None = None) -> nn.Module:
    """A network of a shape, with weights that mean nothing.

    Args:
        shape: that `shape_of` gave.
        network: a module of one's own of this shape, where no factory made it.

    Raises:
        ValueError: if the network cannot be made.
    """
    if shape is None:
        return own.given(network)
    if shape["model_type"] == own.MODEL_TYPE:
        return OwnNetwork.from_shape(shape, torch.Generator(), network)
    return _KINDS[shape["model_type"]].from_shape(shape, torch.Generator())
