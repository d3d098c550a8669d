# SPDX-License-Identifier: Apache-2.0
"""How scores follow from products of queries and keys."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor


class Scoring(NamedTuple):
    """A score is `scale * product`; with a softcap that is drawn smoothly between -softcap and softcap.

    Attributes:
        scale: positive; the flash kernels give NaN for others.
        softcap: c, by which a score s becomes `c * tanh(s / c)`; None for none.
    """

    scale: float
    softcap: Optional[float] = None

    @classmethod
    def of(cls, query: Tensor, scale: Optional[float], softcap: Optional[float] = None) -> Scoring:
        """What a caller asks for; a scale of None means 1 / sqrt(D).

        Raises:
            ValueError: a scale or softcap that is not a positive number.
        """
        if scale is None:
            scale = 1 / sqrt(query.shape[-1])
        if not _is_positive(scale):
            raise ValueError(f"scale={scale!r} must be a positive number; scale the query to change signs")
        if softcap is None:
            return cls(float(scale))
        if not _is_positive(softcap):
            raise ValueError(f"softcap={softcap!r} must be a positive number, or None for scores without a bound")
        return cls(float(scale), float(softcap))

    def scores(self, products: Tensor) -> Tensor:
        """The scores of products."""
        scores = products * self.scale
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def slope(self, scores: Tensor) -> Union[Tensor, float]:
        """The derivative of scores by their products."""
        if self.softcap is None:
            return self.scale
        return (1 - (scores / self.softcap).square_()).mul_(self.scale)


def _is_positive(number) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < float("inf")
