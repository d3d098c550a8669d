# SPDX-License-Identifier: Apache-2.0
"""What networks take, in floating-point operations: a measure that no hardware changes (section 4.2.1).

A multiplication and an addition are two operations. Convolutions, matrix products and attention are counted; all else
is small beside them.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["inference_flops", "on_meta", "training_flops"]


def on_meta(network: nn.Module) -> nn.Module:
    """A copy without values, for which none of the network's memory is copied."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(tensor): _without_values(tensor) for tensor in tensors})


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def training_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Operations of one image's pass forward and backward. Nothing is computed.

    Args:
        network: from images [B, C, H, W] to a tensor, on the meta device (`on_meta`). Weights that are frozen take no
            gradient.
        shape: of the image, [C, H, W].

    Raises:
        ValueError: if the network needs values, or fails on such an image.
    """
    # Batch norms in training refuse a single value for each channel, as one image can come to.
    images = torch.empty(2, *shape, device="meta")
    try:
        with _counted(shape) as counter:
            network(images).sum().backward()
    finally:
        network.zero_grad()
    return counter.get_total_flops() // 2


def inference_flops(network: nn.Module, shape: tuple[int, int, int], shares: Mapping[str, float] | None = None) -> int:
    """Operations of one image's pass forward in evaluation. Nothing is computed.

    Args:
        network: from images [B, C, H, W] to a tensor, on the meta device (`on_meta`), in evaluation mode.
        shape: of the image, [C, H, W].
        shares: for layers by name, which share of their operations counts: that of the weights that are not zero.

    Raises:
        ValueError: if the network needs values, or fails on such an image.
    """
    with torch.no_grad(), _counted(shape) as counter:
        network(torch.empty(1, *shape, device="meta"))
    counts, root = counter.get_flop_counts(), type(network).__name__
    spared = (
        (1 - share) * sum(counts[f"{root}.{name}"].values())
        for name, share in (shares or {}).items()
        if f"{root}.{name}" in counts
    )
    return round(counter.get_total_flops() - sum(spared))


@contextmanager
def _counted(shape: tuple[int, int, int]) -> Iterator[FlopCounterMode]:
    """Counts what is done in the block."""
    counted = {torch.ops.aten.convolution_backward: _convolution_backward}
    try:
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            yield counter
    except Exception as error:  # networks of anyone's own fail in ways of their own; training must not
        raise ValueError(f"operations for an image of shape {shape} cannot be counted: {error}") from error


def _convolution_backward(
    gradient: Sequence[int], images: Sequence[int], weight: Sequence[int], *arguments: Any, **ignored: Any
) -> int:
    """As much for each gradient as forward; torch's own formula has the weight's too large by the number of groups."""
    _, _, _, _, transposed, _, _, wanted = arguments
    batch, _, *positions = images if transposed else gradient
    return 2 * batch * math.prod(positions) * math.prod(weight) * (wanted[0] + wanted[1])
