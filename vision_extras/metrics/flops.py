# SPDX-License-Identifier: Apache-2.0
"""What training takes, in floating-point operations: a measure that no hardware changes (section 4.2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["training_flops"]


def training_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Operations of one image's pass forward and backward, a multiplication and an addition being two.

    Convolutions, matrix products and attention are counted; all else is small beside them. Nothing is computed: the
    network may be on the meta device, and one that is not stays as it is, its mode and statistics too.

    Args:
        network: from images [B, C, H, W] to a tensor. Weights that are frozen take no gradient.
        shape: of the image, [C, H, W].
    """
    state = {name: _shape_of(value).requires_grad_(value.requires_grad) for name, value in network.named_parameters()}
    state |= {name: _shape_of(value) for name, value in network.named_buffers()}
    # Batch norms in training refuse a single value for each channel, as one image can come to.
    images = torch.empty(2, *shape, device="meta")
    counted = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        functional_call(network, state, (images,)).sum().backward()
    return counter.get_total_flops() // 2


def _convolution_backward(
    gradient: Sequence[int], images: Sequence[int], weight: Sequence[int], *arguments: Any, **ignored: Any
) -> int:
    """As much for each gradient as forward; torch's own formula has the weight's too large by the number of groups."""
    _, _, _, _, transposed, _, _, wanted = arguments
    batch, _, *positions = images if transposed else gradient
    return 2 * batch * math.prod(positions) * math.prod(weight) * (wanted[0] + wanted[1])


def _shape_of(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(value, device="meta", requires_grad=False)
