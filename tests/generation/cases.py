# SPDX-License-Identifier: Apache-2.0
"""Tiny models under span-expanded attention, and what their caches are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import hylora
from tests.architectures.checks import PER_TOKEN as NARROW
from tests.architectures.checks import tokens
from tests.tiny import tiny_bamba, tiny_llama, tiny_qwen2
from tests.tolerances import assert_close

__all__ = ["NARROW", "WIDE", "assert_close", "mask_with", "model_of", "positions_of", "recomputed", "tokens"]

# Everything is retrieved, so that the attention is full attention.
WIDE = {**NARROW, "top_k": 64}
_MODELS = {"llama": tiny_llama, "bamba": tiny_bamba, "qwen2": tiny_qwen2}


def model_of(name: str, options: dict = NARROW, **overrides) -> PreTrainedModel:
    """A tiny Llama, Bamba or Qwen2 (with windows beside full attention) under `se_attn`."""
    model = _MODELS[name](pad_token_id=0, bos_token_id=None, eos_token_id=None, **overrides)
    hylora.set_attention(model, "se_attn", **options)
    return model


def mask_with(ids: Tensor, *left: int) -> Tensor:
    """A mask of ids with so much padding on the left of each row."""
    return (torch.arange(ids.shape[1]) >= torch.tensor(left)[:, None]).long()


def positions_of(mask: Tensor) -> Tensor:
    """Positions that count real tokens, as `generate` makes them."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def recomputed(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits without a cache."""
    mask = torch.ones_like(ids) if mask is None else mask
    with torch.no_grad():
        return model(ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False).logits
