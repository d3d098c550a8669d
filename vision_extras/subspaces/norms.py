# SPDX-License-Identifier: Apache-2.0
"""Norms without statistics, in place of batch norms, whose statistics belong to one level (section 3.2.5)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

__all__ = ["norm_parameters", "replace_batch_norms"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def norm_parameters(network: nn.Module) -> list[str]:
    """Names of the trained scales and shifts of a network's norms."""
    kinds = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return [
        f"{name}.{own}" if name else own
        for name, module in network.named_modules()
        if isinstance(module, kinds)
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]


def replace_batch_norms(network: nn.Module, norm: Literal["group", "instance"], groups: int = 32) -> None:
    """Replace batch norms by norms of each image alone, in place.

    The new ones have the parameters of the old, under their names; one of timm that has an activation inside becomes a
    sequence whose `norm` has them. Other norms stay: a transformer, whose norms are of layers, is as it was.

    Args:
        network: any module; it may be on the meta device.
        norm: of groups of channels, or of each channel (instance norms, as group norms of one channel).
        groups: the most that divide the channels, up to this number, are taken; one for each channel where there are
            fewer channels.

    Raises:
        ValueError: if a batch norm does more than to normalise, which would be lost; then nothing is replaced.
    """
    found = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    made = {module: _without_statistics(name, module, norm, groups) for name, module in found.items()}
    for parent in list(network.modules()):
        # By every name that a module has in its parent: norms may be shared.
        for name, child in list(parent._modules.items()):
            if child in made:
                setattr(parent, name, made[child])


def _without_statistics(name: str, old: _BatchNorm, norm: Literal["group", "instance"], groups: int) -> nn.Module:
    if type(old).__name__ == "BatchNormAct2d" and [*old._modules] == ["drop", "act"]:
        parts = {"norm": _of_groups(old, norm, groups), "drop": old.drop, "act": old.act}
        return nn.Sequential(OrderedDict(parts)).train(old.training)
    if type(old).forward is not nn.BatchNorm2d.forward or not isinstance(old, _BATCH_NORMS):
        raise ValueError(
            f"{name} is of the kind {type(old).__name__}, which may do more than a batch norm of torch.nn; replace it "
            f"by one of {', '.join(kind.__name__ for kind in _BATCH_NORMS)}, or keep the network's norms"
        )
    return _of_groups(old, norm, groups)


def _of_groups(old: _BatchNorm, norm: Literal["group", "instance"], groups: int) -> nn.GroupNorm:
    channels, count = old.num_features, old.num_features
    if norm == "group":
        count = max(count for count in range(1, min(groups, channels) + 1) if channels % count == 0)
    # Its own parameters would be drawn for nothing.
    new = nn.GroupNorm(count, channels, old.eps, old.affine, device="meta")
    new.weight, new.bias = old.weight, old.bias
    return new.train(old.training)
