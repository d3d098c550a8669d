# SPDX-License-Identifier: Apache-2.0
"""Counted operations against formulas, and against the thesis."""

from __future__ import annotations

import dataclasses

import pytest

from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.mavil.masking import MaskRecipe
from vision_extras.mavil.operations import clip_flops, epoch_mean
from vision_extras.mavil.recipe import LearnerRecipe

# Sizes that are all different.
SMALL = LearnerRecipe(
    audio_patch=8,
    video_patch=4,
    hidden_size=24,
    num_attention_heads=3,
    audio_layers=2,
    video_layers=3,
    fusion_layers=1,
    decoder_size=16,
    decoder_layers=2,
    decoder_heads=2,
)
CLIPS = ClipsRecipe(name="bunny", seconds=0.6, bands=32, frames=4, side=20)
# 64 x 32 numbers of sound in squares of 8 x 8, and 2 x 5 x 5 blocks of video; three in four are masked.
HEARD, UNHEARD, SEEN, UNSEEN = 8, 24, 12, 38


def layers(count, tokens, size, to=None):
    """A transformer's: four projections, attention to so many tokens, and a feed-forward layer four times as wide."""
    return count * tokens * (2 * 4 * size**2 + 2 * 2 * (to or tokens) * size + 2 * 8 * size**2)


def test_operations_are_those_of_formulas():
    found = clip_flops(SMALL, CLIPS, 0.75)
    assert found["audio"] == 2 * (2 * HEARD * 64 * 24 + layers(2, HEARD, 24))
    assert found["video"] == 2 * (2 * SEEN * 96 * 24 + layers(3, SEEN, 24))
    assert found["fusion"] == layers(1, HEARD + SEEN, 24)
    ends = 2 * HEARD * 24 * 16 + 2 * 2 * UNHEARD * 64 * 16
    assert found["audio_decoder"] == ends + layers(2, HEARD + UNHEARD, 16, to=16)
    # Keys and values are of visible patches.
    crossed = layers(2, UNSEEN, 16, to=SEEN) - 2 * 2 * 2 * (UNSEEN - SEEN) * 16**2
    assert found["video_decoder"] == 2 * SEEN * 24 * 16 + 2 * 2 * UNSEEN * 96 * 16 + crossed
    compared = found["total"] - sum(found[name] for name in found if name != "total")
    # One clip's embeddings: each way between modalities, and between views of each.
    assert compared == 3 * 2 * 2 * 24


def test_without_diffusion_all_patches_are_projected_once_and_nothing_is_filled_in():
    model = dataclasses.replace(SMALL, diffusion=False, video_attention="self")
    found = clip_flops(model, CLIPS, 0.75)
    assert found["video"] == 2 * 50 * 96 * 24 + 2 * layers(3, SEEN, 24)
    assert found["video_decoder"] == 2 * SEEN * 24 * 16 + layers(2, 50, 16) + 2 * UNSEEN * 16 * 96


@pytest.mark.slow
def test_savings_are_the_thesiss():
    """Table 5.5's totals; ratios of three epochs have the mean of those of sixty."""
    clips, fixed, linear = ClipsRecipe(name="bunny"), MaskRecipe(), MaskRecipe(first=0.9, last=0.8)
    mavil = LearnerRecipe(diffusion=False, video_attention="self")
    whole = epoch_mean(mavil, clips, fixed, 1)["total"]
    assert epoch_mean(LearnerRecipe(), clips, fixed, 1)["total"] / whole == pytest.approx(0.81, abs=0.01)
    assert epoch_mean(LearnerRecipe(), clips, linear, 3)["total"] / whole == pytest.approx(0.68, abs=0.01)
