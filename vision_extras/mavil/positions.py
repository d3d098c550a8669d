# SPDX-License-Identifier: Apache-2.0
"""Sinusoidal embeddings of positions: of a spectrogram's grid, and separable ones of a video's (section 5.5.1)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["grid", "separable", "sinusoids"]


def sinusoids(length: int, size: int, device: torch.device | None = None) -> Tensor:
    """Embeddings of positions on a line (Vaswani et al., 2017): sines in one half, cosines in the other.

    Args:
        length: how many positions there are, from 0.
        size: of an embedding, even.
        device: to put them on.

    Returns:
        [length, size], float32.
    """
    frequencies = 10000.0 ** (-torch.arange(size // 2, device=device) / (size // 2))
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid(rows: int, columns: int, size: int, device: torch.device | None = None) -> Tensor:
    """Embeddings of positions on a grid, row by row: the row's in one half, the column's in the other.

    Args:
        rows: of the grid.
        columns: of the grid.
        size: of an embedding, a multiple of 4.
        device: to put them on.

    Returns:
        [rows * columns, size], float32.
    """
    row, column = sinusoids(rows, size // 2, device), sinusoids(columns, size // 2, device)
    both = [row[:, None].expand(rows, columns, -1), column[None].expand(rows, columns, -1)]
    return torch.cat(both, dim=-1).flatten(0, 1)


def separable(times: int, rows: int, columns: int, size: int, device: torch.device | None = None) -> Tensor:
    """Embeddings of positions in a video: the sum of one in time and one on the grid.

    Returns:
        [times * rows * columns, size], float32.
    """
    time, place = sinusoids(times, size, device), grid(rows, columns, size, device)
    return (time[:, None] + place[None]).flatten(0, 1)
