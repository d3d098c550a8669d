# SPDX-License-Identifier: Apache-2.0
"""What a classifier says of held-out clips, gathered from all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from hylora.training.feed import Batch

__all__ = ["predictions"]


def predictions(
    model: nn.Module, batches: Iterable[Batch], accelerator: Accelerator, check_stop: Callable[[], Any]
) -> tuple[Tensor, Tensor]:
    """What a model says of each clip, once: average precision is no sum over processes. Every process must call this.

    Args:
        model: from spectrograms [B, T, bands] to logits [B, K], as the accelerator prepared it, in evaluation mode.
        batches: of this process, as `vision_extras.clips.dealing.dealt` gives them.
        accelerator: of the run.
        check_stop: called before each batch.

    Returns:
        Logits, [N, K] in float32, and labels, [N] in int64 or [N, K] in float32, of all clips in any order, but the
        same in every process; on the host.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        check_stop()
        with torch.no_grad():
            logits = model(batch["input_values"].to(accelerator.device)).float().cpu()
        counted = batch["counted"]
        seen.append((logits[counted], batch["labels"][counted]))
    logits, labels = zip(*gather_object(seen), strict=True)
    return torch.cat(logits), torch.cat(labels)
