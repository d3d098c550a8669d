# SPDX-License-Identifier: Apache-2.0
"""How masks are made, held and saved."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["Masks"]


class Masks(nn.Module):
    """Which weights stay: for each named weight a buffer of its shape, true where it stays.

    The buffers are part of the state of the model that holds this module, so that checkpoints have them.
    """

    def cover(self, weights: Mapping[str, Tensor]) -> None:
        """Give each weight that has none a mask under which everything stays."""
        for name, weight in weights.items():
            if _key(name) not in self._buffers:
                self.register_buffer(_key(name), torch.ones_like(weight, dtype=torch.bool))

    @torch.no_grad()
    def apply(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Set to zero, in weights or their gradients, what does not stay. None is passed over."""
        for name, tensor in tensors.items():
            if tensor is not None:
                tensor.mul_(self[name])

    @torch.no_grad()
    def prune(self, weights: Mapping[str, Tensor], sparsity: float) -> None:
        """Take away the smallest weights of each tensor until a share of them is gone. What is gone never returns.

        Args:
            weights: by name; each is covered. They are not changed: see `apply`.
            sparsity: the share, in [0, 1).
        """
        for name, weight in weights.items():
            mask = self[name]
            wanted = int(sparsity * weight.numel())
            if wanted > weight.numel() - int(mask.sum()):
                # What is gone comes before a weight that happens to be zero.
                size = weight.abs().masked_fill(~mask, -1.0).flatten()
                mask.view(-1)[size.topk(wanted, largest=False).indices] = False

    def __getitem__(self, name: str) -> Tensor:
        """The mask of a weight."""
        return self._buffers[_key(name)]


def _key(name: str) -> str:
    """A weight's name as that of a buffer, in which torch allows no dots."""
    return name.replace(".", "/")
