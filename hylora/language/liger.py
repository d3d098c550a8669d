# SPDX-License-Identifier: Apache-2.0
"""Liger's fused linear cross-entropy in place of the sliced loss: one kernel for a slice's loss and its gradients."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from hylora.language.head import LogitTransform
from hylora.language.loss import IGNORED, common_dtype, next_tokens

__all__ = ["check_liger", "liger_causal_loss"]


def check_liger(device: torch.device, transform: LogitTransform) -> None:
    """Refuse a place where the kernel cannot run, and a model that it was not compared for.

    Raises:
        ValueError: Liger is not installed, the device is no GPU, or the model caps its logits.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        raise ValueError("loss='liger' needs liger-kernel: pip install 'hylora[liger]'; or use sliced")
    if device.type != "cuda":
        raise ValueError(f"loss='liger' must run on a GPU, and this is {device.type!r}; use sliced")
    if transform.softcap is not None:
        raise ValueError(
            f"loss='liger' must not be used for logits that are capped (at {transform.softcap}): Triton's interpreter "
            "cannot run that part of the kernel, so nothing shows that it is right; use sliced"
        )


def liger_causal_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, transform: LogitTransform
) -> tuple[Tensor, Tensor]:
    """Sum of the next-token cross-entropies, and how many tokens it sums over, as `sliced_causal_loss` gives them.

    The logits of a slice are kept in the dtype of the product (autocast's, where it is on), and so are their
    gradients; the sliced loss computes both in float32.

    Args:
        hidden: last hidden states [B, L, H].
        weight: of the head [V, H].
        labels: token ids [B, L] at the positions of the inputs; -100 is ignored.
        bias: of the head [V], or None.
        transform: of the logits, without a cap. Its scale is applied to the hidden states.

    Returns:
        The summed loss (float32) and the token count (int64), both scalar.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    targets = next_tokens(hidden, weight, labels)
    dtype = common_dtype(hidden, weight)
    loss = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="sum", accum_dtype=torch.float32)
    rows = hidden.flatten(0, 1).to(dtype)
    if transform.scale != 1.0:
        rows, bias = rows * transform.scale, None if bias is None else bias * transform.scale
    total = loss(weight.to(dtype), rows, targets.flatten(), None if bias is None else bias.to(dtype))
    return total, (targets != IGNORED).sum()
