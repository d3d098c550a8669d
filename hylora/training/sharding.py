# SPDX-License-Identifier: Apache-2.0
"""Tensors that are sharded over processes (FSDP2), seen whole."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["like", "whole"]


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; every process must call it when the tensor is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor on the device of `reference`, and sharded as it is."""
    tensor = tensor.to(reference.device)
    if isinstance(reference, DTensor):
        return distribute_tensor(tensor, reference.device_mesh, reference.placements)
    return tensor
