# SPDX-License-Identifier: Apache-2.0
"""Learning rates that fall from a network's head to its first layer (BEiT: Bao et al., 2022; table 5.6)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from hylora.training.optimizer import decay_matrices, trainable

__all__ = ["depth_of", "layered_groups"]

_LAYER = re.compile(r"(?:^|\.)audio\.layers\.(\d+)\.")


def depth_of(name: str, layers: int) -> int:
    """How deep a parameter of an audio classifier lies.

    Args:
        name: of the parameter.
        layers: of its encoder.

    Returns:
        0 for the embedding of patches, 1 to `layers` for the encoder's layers, and one more for what follows them.
    """
    if found := _LAYER.search(name):
        return int(found[1]) + 1
    return 0 if re.search(r"(?:^|\.)audio\.(?!norm\.)", name) else layers + 1


def layered_groups(
    model: nn.Module, weight_decay: float, lr: float, decay: float, layers: int
) -> list[dict[str, Any]]:
    """Parameter groups by depth, whose rate is `lr * decay ** (layers + 1 - depth)`; norms and biases do not decay.

    Args:
        model: whose trained parameters are meant.
        weight_decay: of all others than norms and biases.
        lr: rate of the head.
        decay: factor on it from one layer to the one before.
        layers: of the encoder.
    """
    depths = {id(parameter): depth_of(name, layers) for name, parameter in trainable(model).items()}
    groups = []
    for group in decay_matrices(model, weight_decay):
        for depth in range(layers + 2):
            chosen = [parameter for parameter in group["params"] if depths[id(parameter)] == depth]
            groups.append({**group, "params": chosen, "lr": lr * decay ** (layers + 1 - depth)})
    return groups
