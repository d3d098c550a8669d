# SPDX-License-Identifier: Apache-2.0
"""Growing a network's width and depth while it is trained (chapter 4, section 4.4)."""

from __future__ import annotations

from dataclasses import dataclass

from hylora.training.fields import check_range
from hylora.training.method import Method

__all__ = ["Growth", "GrowthRecipe"]


@dataclass(frozen=True, kw_only=True)
class GrowthRecipe:
    """What the network starts from; by a straight line over the epochs it grows to its full size (equation 4.3).

    Args:
        width: factor on its channels in the first epoch, in (0, 1].
        depth: factor on its blocks in the first epoch, in (0, 1].
        until: the share of the epochs after which it has its full size, tau in (0, 1].
    """

    width: float = 1.0
    depth: float = 1.0
    until: float = 0.75

    def __post_init__(self) -> None:
        check_range(self, "width", "depth", "until", above=0)
        for name in ("width", "depth", "until"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at most 1")

    @property
    def grows(self) -> bool:
        """Whether the network changes at all."""
        return self.width < 1 or self.depth < 1


class Growth(Method):
    """Sets a network's width and depth at the beginning of each epoch."""
