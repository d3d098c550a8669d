# SPDX-License-Identifier: Apache-2.0
"""Negative log-likelihood of every token, without the logits of a whole sequence ever existing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hylora.language.head import decoder_and_head

__all__ = ["token_nll"]


@torch.no_grad()
def token_nll(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, slice_length: int = 1024
) -> Tensor:
    """Negative log-likelihood of each token given those before it, in nats.

    The decoder runs once; the head is applied to `slice_length` positions at a time (of the whole batch together), so
    that memory for logits is `slice_length * V` whatever the length. The log-softmax is taken in float32.

    Args:
        model: a transformers causal language model, or a PEFT model around one, in evaluation mode.
        input_ids: tokens [B, L], L at least 2.
        attention_mask: 1 for tokens and 0 for padding [B, L], or None where nothing is padded.
        slice_length: positions whose logits exist at one time. The result does not depend on it.

    Returns:
        float32 [B, L-1] (float64 from a float64 model): column t belongs to token t+1. It is 0 where that token or the
        one before it is padding.

    Raises:
        ValueError: if there is nothing to predict, `slice_length` is below 1, or the model's head is not supported
            (see `hylora.language.head.decoder_and_head`).
    """
    if input_ids.ndim != 2 or input_ids.shape[1] < 2:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; [B, L] with at least 2 tokens is needed")
    if slice_length < 1:
        raise ValueError(f"slice_length={slice_length} must be at least 1")
    parts = decoder_and_head(model)
    outputs = parts.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    hidden = outputs.last_hidden_state[:, :-1].flatten(0, 1)
    targets = input_ids[:, 1:].flatten().to(parts.weight.device)
    slices = zip(hidden.split(slice_length), targets.split(slice_length), strict=True)
    nll = torch.cat([F.cross_entropy(parts.logits(states), tokens, reduction="none") for states, tokens in slices])
    nll = nll.view(input_ids.shape[0], -1)
    if attention_mask is not None:
        real = attention_mask.to(nll.device).bool()
        nll = nll.where(real[:, 1:] & real[:, :-1], 0.0)
    return nll
