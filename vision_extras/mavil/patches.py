# SPDX-License-Identifier: Apache-2.0
"""Patches of spectrograms and videos, and which of them are visible."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "Grid",
    "audio_grid",
    "audio_patches",
    "from_audio_patches",
    "from_video_patches",
    "in_order",
    "taken",
    "video_grid",
    "video_patches",
    "visible_count",
]

# How many patches there are: (along time, over bands) of a spectrogram, (along time, down, across) of a video.
Grid = tuple[int, ...]


def audio_grid(frames: int, bands: int, patch: int) -> Grid:
    """How many patches lie along a spectrogram's time and over its bands.

    Raises:
        ValueError: if they do not divide it.
    """
    if frames % patch or bands % patch or not frames:
        raise ValueError(f"a spectrogram of {frames} frames and {bands} bands must divide into patches of {patch}")
    return frames // patch, bands // patch


def video_grid(frames: int, height: int, width: int, tubelet: int, patch: int) -> Grid:
    """How many patches lie along a video's time, down and across.

    Raises:
        ValueError: if they do not divide it.
    """
    if frames % tubelet or height % patch or width % patch or not frames:
        raise ValueError(
            f"a video of {frames} frames of {height}x{width} pixels must divide into patches of {tubelet} frames of "
            f"{patch}x{patch}"
        )
    return frames // tubelet, height // patch, width // patch


def audio_patches(spectrograms: Tensor, patch: int) -> Tensor:
    """Cut spectrograms into squares, those of one time after another.

    Args:
        spectrograms: [B, T, bands].
        patch: P, height and width.

    Returns:
        [B, (T / P) (bands / P), P * P].
    """
    return spectrograms.unfold(1, patch, patch).unfold(2, patch, patch).flatten(1, 2).flatten(2)


def from_audio_patches(patches: Tensor, grid: Grid, patch: int) -> Tensor:
    """What `audio_patches` was given, [B, T, bands]."""
    times, bands = grid
    return patches.view(-1, times, bands, patch, patch).transpose(2, 3).reshape(-1, times * patch, bands * patch)


def video_patches(videos: Tensor, tubelet: int, patch: int) -> Tensor:
    """Cut videos into blocks of a few frames, those of one time after another, row by row.

    Args:
        videos: [B, C, F, H, W].
        tubelet: U, frames of a block.
        patch: P, its height and width.

    Returns:
        [B, (F / U) (H / P) (W / P), U * P * P * C].
    """
    blocks = videos.unfold(2, tubelet, tubelet).unfold(3, patch, patch).unfold(4, patch, patch)
    return blocks.permute(0, 2, 3, 4, 5, 6, 7, 1).flatten(1, 3).flatten(2)


def from_video_patches(patches: Tensor, grid: Grid, tubelet: int, patch: int) -> Tensor:
    """What `video_patches` was given, [B, C, F, H, W]."""
    times, rows, columns = grid
    blocks = patches.view(len(patches), times, rows, columns, tubelet, patch, patch, -1)
    blocks = blocks.permute(0, 7, 1, 4, 2, 5, 3, 6)
    return blocks.reshape(len(patches), -1, times * tubelet, rows * patch, columns * patch)


def visible_count(patches: int, ratio: float) -> int:
    """How many of so many patches are visible: (1 - ratio) of them, rounded (section 5.1.1).

    At least one is visible, and one is masked.

    Args:
        patches: how many there are, at least 2.
        ratio: rho, the share that is masked.
    """
    return min(patches - 1, max(1, round((1 - ratio) * patches)))


def taken(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Some tokens of each row: [B, N, D] and [B, n] of int64 give [B, n, D]."""
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[-1]))


def in_order(visible: Tensor, masked: Tensor, places: Tensor) -> Tensor:
    """Put tokens back where their patches were.

    Args:
        visible: [B, v, D].
        masked: [B, m, D].
        places: [B, v + m], int64: where each of them was, first the visible ones.

    Returns:
        [B, v + m, D].
    """
    return taken(torch.cat([visible, masked], dim=1), places.argsort(dim=1))
