# SPDX-License-Identifier: Apache-2.0
"""A network whose level is changed while it is in use (sections 3.2.1 and 3.2.6)."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from vision_extras.subspaces.subspace import CompressibleSubspace, make_plain

__all__ = ["Deployed"]


class Deployed(nn.Module):
    """A subspace in use: weights are computed when its level is changed, and not in each forward pass.

    A change needs no training and no images, and a level is the same bit for bit whenever it is gone to. What is
    computed is written over what was there, layer by layer, so that memory does not grow; widths are prefixes of the
    stored weights, of which nothing but the norms is computed. It begins at the weakest level.

    Args:
        subspace: trained. Its tensors are shared and not changed, and it stays where it is; of its own a deployed
            network has one copy of the weights that depend on the level. Move it to its device and type before this,
            and where it is trained on, `switch` after that.
    """

    def __init__(self, subspace: CompressibleSubspace) -> None:
        super().__init__()
        tensors = itertools.chain(subspace.parameters(), subspace.buffers())
        shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
        self._subspace = copy.deepcopy(subspace, dict(shared)).eval()
        place = self._subspace.position
        self.network = copy.deepcopy(self._subspace.network, {**shared, id(place): place})
        for module in list(self.network.modules()):
            if parametrize.is_parametrized(module):
                make_plain(module)
        self.switch(subspace.compression.weakest)

    @property
    def level(self) -> float:
        """Where it is."""
        return self._subspace.position.level

    @torch.no_grad()
    def switch(self, level: float) -> None:
        """Go to a level.

        Raises:
            ValueError: if it is not one of those that were trained; then nothing has changed.
        """
        self._subspace.at_level(level)
        for name, module in self._subspace.network.named_modules():
            if parametrize.is_parametrized(module):
                plain = self.network.get_submodule(name)
                for tensor, point in module.parametrizations.items():
                    getattr(plain, tensor).copy_(point())

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the network gives at the present level; no gradients are kept."""
        return self.network(*inputs, **options)
