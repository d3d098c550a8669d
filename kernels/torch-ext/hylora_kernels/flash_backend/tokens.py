# SPDX-License-Identifier: Apache-2.0
"""Between the grid `[B, H, L, D]` and the real tokens `[T, H, D]`, one sequence after the other."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from ..cached import cached_tables
from ..layout import SequenceLayout


def take_tokens(x: Tensor, layout: SequenceLayout) -> Tensor:
    """The real tokens of `[B, H, L, ...]` as `[T, H, ...]`; a view where the memory allows it."""
    grid = x.transpose(1, 2).flatten(0, 1)
    places = _places(layout, x.device)
    return grid if places is None else grid[places]


def put_tokens(tokens: Tensor, layout: SequenceLayout) -> Tensor:
    """The inverse of `take_tokens`, with zeros at padded positions."""
    places = _places(layout, tokens.device)
    if places is not None:
        grid = tokens.new_zeros((layout.batch * layout.length, *tokens.shape[1:]))
        grid[places] = tokens
        tokens = grid
    return tokens.unflatten(0, (layout.batch, layout.length)).transpose(1, 2)


@cached_tables
def _places(layout: SequenceLayout, device: torch.device) -> Optional[Tensor]:
    """Where the real tokens lie in the flattened grid, or None where all of it is real."""
    runs = [torch.arange(length) + row * layout.length + start for row, start, length in layout.sequences]
    places = torch.cat(runs) if runs else torch.zeros(0, dtype=torch.int64)
    return None if len(places) == layout.batch * layout.length else places.to(device)
