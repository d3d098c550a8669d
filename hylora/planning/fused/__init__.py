# SPDX-License-Identifier: Apache-2.0
"""What fused training kernels of state-space layers allocate and compute, where they cannot themselves run.

transformers' own code for these layers is for correctness. It keeps large matrices per chunk, or walks from token to
token; on a GPU nobody trains with it, so a plan that used it would be far off.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from hylora.planning.fused.mamba1 import Mamba1Scan
from hylora.planning.fused.mamba2 import Mamba2Scan

__all__ = ["Mamba1Scan", "Mamba2Scan", "use_fused_scans"]


def use_fused_scans(model: nn.Module) -> list[Mamba1Scan | Mamba2Scan]:
    """Let a model's Mamba layers allocate what the fused kernels do. Their outputs then mean nothing.

    Args:
        model: without weights; changed in place.

    Returns:
        The scan of each layer that was changed, in the model's order; empty for a model without such layers.
    """
    scans = []
    for mixer in model.modules():
        for kind in (Mamba1Scan, Mamba2Scan):
            if (scan := kind.of(mixer)) is not None:
                mixer.forward = partial(scan.forward, mixer)
                scans.append(scan)
    return scans
