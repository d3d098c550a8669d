# SPDX-License-Identifier: Apache-2.0
"""Clips with something in place of their masked patches, for people to look at."""

from __future__ import annotations

from torch import Tensor

from hylora.training.feed import Batch
from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.patches import (
    audio_grid,
    audio_patches,
    from_audio_patches,
    from_video_patches,
    video_grid,
    video_patches,
)

__all__ = ["completed"]


def completed(
    config: MavilConfig, batch: Batch, audio: Tensor, video: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Spectrograms and videos whose masked patches are replaced, and whose visible ones stay.

    Args:
        config: of the learner.
        batch: as `MavilForPreTraining` is given it.
        audio: in place of masked patches, [B, m, P]: `audio_predicted` of the learner's output for its reconstruction,
            or `audio_noisy` for what its decoder was given.
        video: likewise; None without video.

    Returns:
        Normalised as the batch's: [B, T, bands], and [B, C, F, H, W] or None.
    """
    heard, size = batch["input_values"], config.audio_patch
    patches = _placed(audio_patches(heard, size), batch["audio_masked"], audio)
    spectrograms = from_audio_patches(patches, audio_grid(*heard.shape[1:], size), size)
    if video is None:
        return spectrograms, None
    seen, sizes = batch["frames"], (config.tubelet, config.video_patch)
    patches = _placed(video_patches(seen, *sizes), batch["video_masked"], video)
    return spectrograms, from_video_patches(patches, video_grid(*seen.shape[2:], *sizes), *sizes)


def _placed(patches: Tensor, numbers: Tensor, values: Tensor) -> Tensor:
    """Patches [B, N, P] with values [B, m, P] in place of those of some numbers [B, m]."""
    return patches.scatter(1, numbers[..., None].expand_as(values), values.to(patches.dtype))
