# SPDX-License-Identifier: Apache-2.0
"""How much two classifiers say the same, such as a sparse one and the dense one it comes with (section 3.4.2)."""

from __future__ import annotations

from torch import Tensor

from vision_extras.images import IGNORED

__all__ = ["agreement_metrics", "agreement_sums"]


def agreement_sums(sparse: Tensor, dense: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Sums over images, in float64 on the host, of which `agreement_metrics` makes metrics.

    Args:
        sparse: logits of one classifier, [B, K].
        dense: those of the other, [B, K].
        labels: [B], int64; images labelled -100 count for nothing, and else labels do not count.

    Returns:
        Images, for how many both have the same class, and the summed cross entropy -sum p_dense log p_sparse in nats.
    """
    counted = labels.cpu() != IGNORED
    sparse, dense = (logits.detach().cpu().double()[counted] for logits in (sparse, dense))
    return (
        counted.sum(),
        (sparse.argmax(dim=-1) == dense.argmax(dim=-1)).sum(),
        -(dense.softmax(dim=-1) * sparse.log_softmax(dim=-1)).sum(),
    )


def agreement_metrics(count: Tensor, same: Tensor, entropy: Tensor) -> dict[str, float]:
    """Metrics of all images, from the sums of `agreement_sums` over them.

    Returns:
        `agreement`, the share of images that both tell the same class for, and their mean `cross_entropy`.
    """
    images = int(count)
    return {"agreement": float(same) / images, "cross_entropy": float(entropy) / images}
