# SPDX-License-Identifier: Apache-2.0
"""Feeding a state token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from hylora_kernels.decode import DecodeState, span_decode


def empty_state(inputs, **options) -> DecodeState:
    """A state for these inputs, with as little room as there can be unless said otherwise."""
    query, key, _ = inputs
    sizes = (query.shape[0], query.shape[1], key.shape[1], query.shape[3])
    return DecodeState(*sizes, **{"capacity": 1, "dtype": query.dtype, "device": query.device, **options})


def decode(inputs, state: DecodeState, first: int = 0, last: int | None = None, **options) -> Tensor:
    """The outputs `[B, Hq, last - first, D]` of the tokens from `first` to `last`, fed one by one."""
    steps = [x[:, :, first:last].split(1, dim=2) for x in inputs]
    return torch.cat([span_decode(*token, state, **options) for token in zip(*steps, strict=True)], dim=2)
