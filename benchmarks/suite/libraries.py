# SPDX-License-Identifier: Apache-2.0
"""Attention kernels of other libraries, as far as they are installed; what is missing says why."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from .methods import Method, Options, full_attention, full_method, full_reference, unbound
from .results import describe_error

# Native sparse attention as published: 16 blocks of 64 keys for each query.
_NSA_BLOCKS, _NSA_BLOCK_SIZE = 16, 64
# Its kernels want at least so many query heads to a key head.
_NSA_GROUP = 16


def library_methods(options: Options, heads: tuple[int, int]) -> dict[str, Method]:
    """Full attention by cuDNN and flash-attn 2 and 3, and native sparse attention."""
    on_cpu = "needs a CUDA device" if options.device == "cpu" else None
    flash_2, missing_2 = find("flash_attn", "flash_attn_func")
    flash_3, missing_3 = find("flash_attn_interface", "flash_attn_func")
    nsa, missing_nsa = find("fla.ops.nsa.parallel", "parallel_nsa")
    if heads[0] % _NSA_GROUP:
        missing_nsa = missing_nsa or f"needs a multiple of {_NSA_GROUP} query heads, not {heads[0]}"

    cudnn = partial(full_attention, backend=SDPBackend.CUDNN_ATTENTION)
    return {
        "cudnn": full_method("Full, SDPA cuDNN", cudnn, on_cpu),
        "fa2": full_method("Full, flash-attn 2", partial(_flash_attn, function=flash_2), on_cpu or missing_2),
        "fa3": full_method("Full, flash-attn 3", partial(_flash_attn, function=flash_3), on_cpu or missing_3),
        "nsa": Method(
            f"NSA, {_NSA_BLOCKS} x {_NSA_BLOCK_SIZE}, {_NSA_GROUP} query heads to a KV head",
            unbound(partial(_native_sparse, function=nsa)),
            lambda query, *keys: full_reference(query, *(_fewer_heads(query, x) for x in keys)),
            None,
            # Where a query chooses all there is, it is full attention.
            check_length=_NSA_BLOCKS * _NSA_BLOCK_SIZE,
            check_heads=(_NSA_GROUP, 1),
            missing=on_cpu or missing_nsa,
        ),
    }


def find(module: str, name: str) -> tuple[Callable | None, str | None]:
    """A function of a library that may not be there, or why it is not."""
    try:
        return getattr(importlib.import_module(module), name), None
    except Exception as error:  # a library built for another torch fails in ways of its own
        return None, describe_error(error)


def _flash_attn(query: Tensor, key: Tensor, value: Tensor, function: Callable) -> Tensor:
    output = function(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), causal=True)
    # flash-attn 3 gave the log-sum-exp as well for a time.
    return (output[0] if isinstance(output, tuple) else output).transpose(1, 2)


def _native_sparse(query: Tensor, key: Tensor, value: Tensor, function: Callable) -> Tensor:
    """Choice by compressed attention, then attention to the chosen blocks alone, which the gates leave over."""
    query, key, value = (x.transpose(1, 2) for x in (query, _fewer_heads(query, key), _fewer_heads(query, value)))
    gates = torch.ones(query.shape[:3], dtype=query.dtype, device=query.device)
    output = function(
        query,
        key,
        value,
        g_cmp=torch.zeros_like(gates),
        g_slc=gates,
        g_swa=None,
        block_counts=_NSA_BLOCKS,
        block_size=_NSA_BLOCK_SIZE,
    )
    return output.transpose(1, 2)


def _fewer_heads(query: Tensor, key: Tensor) -> Tensor:
    """The first KV heads, as few as its grouping asks for."""
    return key[:, : query.shape[1] // _NSA_GROUP]
