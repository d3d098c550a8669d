# SPDX-License-Identifier: Apache-2.0
"""Questions to a tensor that many parts ask."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_finite", "stored_tensors"]


def stored_tensors(tensor: Tensor) -> list[Tensor]:
    """The tensors that hold a tensor's numbers: itself, or the whole numbers and the scales of a quantised one."""
    if type(tensor).__module__.startswith("torchao."):
        return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    state = getattr(tensor, "quant_state", None)
    scales = [getattr(tensor, "SCB", None), getattr(state, "absmax", None), getattr(state, "offset", None)]
    return [tensor, *(scale for scale in scales if scale is not None)]


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of a tensor is NaN or infinite; one without storage or without fractions has none."""
    if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:
        # Eight bits have no order in torch.
        tensor = tensor.bfloat16()
    # The extremes carry what is not finite, and take a fortieth of the time of looking at each number.
    return bool(torch.stack(tensor.aminmax()).isfinite().all())
