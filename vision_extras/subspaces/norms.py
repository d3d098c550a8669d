# SPDX-License-Identifier: Apache-2.0
"""Norms without statistics, in place of batch norms, whose statistics belong to one level (section 3.2.5)."""

from __future__ import annotations

from typing import Literal

from torch import nn

__all__ = ["norm_parameters", "replace_batch_norms"]


def norm_parameters(network: nn.Module) -> list[str]:
    """Names of the trained scales and shifts of a network's norms."""
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    return [
        f"{name}.{own}" if name else own
        for name, module in network.named_modules()
        if isinstance(module, kinds)
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]


def replace_batch_norms(network: nn.Module, norm: Literal["group", "instance"], groups: int = 32) -> None:
    """Replace batch norms by norms of each image alone, in place; scales and shifts stay.

    Args:
        network: any module.
        norm: of groups of channels, or of each channel.
        groups: the most that divide the channels, up to this number, are taken.
    """
    raise NotImplementedError
