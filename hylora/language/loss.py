# SPDX-License-Identifier: Apache-2.0
"""The causal language-model loss with the head applied to a slice of positions at a time.

The logits of a whole sequence [L, V] in float32 are by far the largest tensor of training: 8192 positions of a
128k vocabulary are 4 GiB, several times over with their gradients. Here the logits of a slice live only until its loss
and gradients are known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["IGNORED", "common_dtype", "next_tokens", "sliced_causal_loss"]

IGNORED = -100


def sliced_causal_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    slice_length: int = 1024,
    transform: Callable[[Tensor], Tensor] | None = None,
    watch: Callable[[Tensor], Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of the next-token cross-entropies, and how many tokens it sums over.

    Exactly the loss of the whole logits, with exact gradients for `hidden`, `weight` and `bias`; they are computed
    together with the loss, so the logits are made once and never kept. The head's product runs in autocast's dtype
    where autocast is on; the cross-entropy and the accumulation over slices are in float32 at least.

    Args:
        hidden: last hidden states [B, L, H].
        weight: of the head [V, H].
        labels: token ids [B, L] at the positions of the inputs (the shift by one happens here); -100 is ignored.
        bias: of the head [V].
        slice_length: positions per slice.
        transform: elementwise function from the head's output to the logits (scaling, softcap).
        watch: shown the logits [n, V] of each slice's labels that are not ignored, without gradients.

    Returns:
        The summed loss (float32 at least; zero where every label is ignored) and the token count (int64), both scalar.

    Raises:
        ValueError: if the shapes do not fit together or `slice_length` is not positive.
    """
    if slice_length < 1:
        raise ValueError(f"slice_length={slice_length!r} must be at least 1")
    targets = next_tokens(hidden, weight, labels)
    rows = hidden.flatten(0, 1)
    loss_sum = _SlicedLoss.apply(
        rows, weight, bias, targets.flatten(), slice_length, transform, watch, torch.is_grad_enabled()
    )
    return loss_sum, (targets != IGNORED).sum()


def next_tokens(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """What each position predicts, [B, L]: labels moved to the left by one.

    Args:
        hidden: last hidden states [B, L, H].
        weight: of the head [V, H].
        labels: token ids [B, L].

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if hidden.ndim != 3 or labels.shape != hidden.shape[:2] or weight.shape[1:] != hidden.shape[2:]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and labels {tuple(labels.shape)} must be "
            "[B, L, H], [V, H] and [B, L]"
        )
    # The last position predicts nothing. Moving the labels avoids a copy of the hidden states.
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def common_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of the head's product: autocast's where it is on."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(hidden.dtype, weight.dtype)


class _SlicedLoss(torch.autograd.Function):
    """Loss and gradients, slice by slice, in the forward pass; the backward pass only scales the gradients."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, slice_length, transform, watch, differentiable):
        inputs = (hidden, weight, bias)
        device = hidden.device.type
        compute = common_dtype(hidden, weight)
        wanted = [differentiable and tensor is not None and tensor.requires_grad for tensor in inputs]
        # `detach` first: where nothing is cast, `requires_grad_` must not reach the caller's tensor.
        head = [None if tensor is None else tensor.detach().to(compute) for tensor in (weight, bias)]
        for tensor, want in zip(head, wanted[1:], strict=True):
            if want:
                tensor.requires_grad_()
        grad_hidden = torch.zeros_like(hidden) if wanted[0] else None
        # Many slices add to the head's gradients, so they are kept in float32 at least.
        grad_head = [
            torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) if want else None
            for tensor, want in zip((weight, bias), wanted[1:], strict=True)
        ]
        total = hidden.new_zeros((), dtype=torch.promote_types(compute, torch.float32))
        for start in range(0, len(hidden), slice_length):
            part = slice(start, start + slice_length)
            rows = hidden[part].detach().to(compute).requires_grad_(wanted[0])
            with torch.set_grad_enabled(any(wanted)), torch.autocast(device, enabled=False):
                logits = F.linear(rows, *head)
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                if transform is not None:
                    logits = transform(logits)
                loss = F.cross_entropy(logits, targets[part], reduction="sum", ignore_index=IGNORED)
            total += loss.detach()
            if watch is not None and (counted := targets[part] != IGNORED).any():
                watch(logits.detach()[counted])
            sinks = (None if grad_hidden is None else grad_hidden[part], *grad_head)
            pairs = [(leaf, sink) for leaf, sink in zip((rows, *head), sinks, strict=True) if sink is not None]
            if pairs:
                gradients = torch.autograd.grad(loss, [leaf for leaf, _ in pairs])
                for (_, sink), gradient in zip(pairs, gradients, strict=True):
                    sink += gradient
        ctx.save_for_backward(grad_hidden, *grad_head)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in inputs]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        scaled = [
            None if gradient is None else (gradient * grad).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None, None, None)
