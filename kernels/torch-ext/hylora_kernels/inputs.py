# SPDX-License-Identifier: Apache-2.0
"""The checks that every function makes on its tensors, and what it makes of them first."""

from __future__ import annotations

from typing import List, Tuple, Union

import torch
from torch import Tensor

from .layout import SequenceLayout
from .options import SpanOptions


def check_inputs(query: Tensor, key: Tensor, value: Tensor, layout: Union[SequenceLayout, Tensor, None]):
    """Refuse tensors that do not belong together."""
    if query.dim() != 4 or key.dim() != 4 or value.dim() != 4:
        raise ValueError(
            "query, key and value must be [batch, heads, length, head_dim], got "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if key.shape[:3] != value.shape[:3]:
        raise ValueError(
            f"key {tuple(key.shape)} and value {tuple(value.shape)} must agree in batch, heads and length"
        )
    batch, heads, length, head_dim = query.shape
    if (key.shape[0], key.shape[2], key.shape[3]) != (batch, length, head_dim):
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} must agree in batch, length and head_dim"
        )
    if heads == 0 or key.shape[1] == 0 or heads % key.shape[1]:
        raise ValueError(f"{heads} query heads cannot be shared out evenly among {key.shape[1]} key heads")
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        raise ValueError(
            f"query, key and value must have one floating dtype, got {query.dtype}, {key.dtype}, {value.dtype}; "
            "cast them before the call"
        )
    if not query.device == key.device == value.device:
        raise ValueError(f"query, key, value lie on {query.device}, {key.device}, {value.device}; use one device")
    if isinstance(layout, Tensor):
        if layout.dim() != 2 or layout.shape[1] != 3:
            raise ValueError(
                f"layout of shape {tuple(layout.shape)} must be [sequences, 3] with rows (row, start, length)"
            )
    elif layout is not None and (layout.batch, layout.length) != (batch, length):
        raise ValueError(
            f"layout describes [batch={layout.batch}, length={layout.length}] but query has "
            f"[batch={batch}, length={length}]"
        )


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which summaries, scores and sums of parts are computed: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def summary_dtype(options: SpanOptions, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which summaries of tensors of a dtype are kept."""
    return torch.bfloat16 if options.summary_dtype == "bfloat16" else accumulation_dtype(dtype)


def landmark_query(head_dim: int, seed: int) -> Tensor:
    """The fixed query of the "landmark" summary, `[D]` in float64: standard normal, not learned, one for all heads."""
    return torch.randn(head_dim, generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)


def check_comparable(head_dim: int, value_dim: int, options: SpanOptions):
    """Refuse to rank blocks by products of queries with values of another size."""
    ranks = options.retrieves and options.retrieval == "relevance"
    if head_dim != value_dim and ranks and options.summary in ("attention", "landmark"):
        raise ValueError(
            f"summary={options.summary!r} compares queries, of {head_dim} numbers per head, with values of "
            f"{value_dim}; use a summary of keys, as summary='mean_std'"
        )


def resize_heads(size: int, *tensors: Tensor) -> List[Tensor]:
    """The tensors `[..., D]` with heads of so many numbers: followed by zeros, or cut off.

    Zeros behind queries and keys leave their products as they are, and those behind values give zeros to cut off.
    """
    return [x if x.shape[-1] == size else torch.nn.functional.pad(x, (0, size - x.shape[-1])) for x in tensors]


def rows_contiguous(x: Tensor) -> Tensor:
    """The tensor, copied if a token's vector is not one run of memory, as which kernels read it."""
    return x if x.stride(-1) == 1 else x.contiguous()


def follow_autocast(*tensors: Tensor) -> Tuple[Tensor, ...]:
    """Follow autocast as torch's own attention does: cast all inputs to its dtype."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)
