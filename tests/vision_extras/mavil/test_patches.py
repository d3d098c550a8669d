# SPDX-License-Identifier: Apache-2.0
"""Patches, their order and their positions, against loops."""

from __future__ import annotations

import math

import pytest
import torch

from vision_extras.mavil import positions
from vision_extras.mavil.patches import (
    audio_grid,
    audio_patches,
    from_audio_patches,
    from_video_patches,
    in_order,
    taken,
    video_grid,
    video_patches,
    visible_count,
)


def test_audio_patches_are_squares_in_time_order_and_come_back():
    spectrograms = torch.randn(2, 12, 8)
    patches = audio_patches(spectrograms, 4)
    for number in range(6):
        time, band = divmod(number, 2)
        expected = spectrograms[:, 4 * time : 4 * time + 4, 4 * band : 4 * band + 4].flatten(1)
        assert torch.equal(patches[:, number], expected)
    assert torch.equal(from_audio_patches(patches, (3, 2), 4), spectrograms)


def test_video_patches_are_blocks_in_time_order_and_come_back():
    videos, number = torch.randn(2, 3, 4, 6, 9), 0
    patches = video_patches(videos, 2, 3)
    for time in range(2):
        for row in range(2):
            for column in range(3):
                rows, columns = slice(3 * row, 3 * row + 3), slice(3 * column, 3 * column + 3)
                block = videos[:, :, 2 * time : 2 * time + 2, rows, columns]
                assert torch.equal(patches[:, number], block.permute(0, 2, 3, 4, 1).flatten(1))
                number += 1
    assert patches.shape[1] == number
    assert torch.equal(from_video_patches(patches, (2, 2, 3), 2, 3), videos)


def test_a_grid_that_does_not_divide_is_refused():
    assert audio_grid(128, 64, 16) == (8, 4) and video_grid(16, 224, 224, 2, 16) == (8, 14, 14)
    with pytest.raises(ValueError, match="100 frames and 64 bands must divide into patches of 16"):
        audio_grid(100, 64, 16)
    with pytest.raises(ValueError, match="video of 7 frames of 32x32 pixels"):
        video_grid(7, 32, 32, 2, 8)


def test_visible_patches_are_rounded_and_never_none_or_all():
    """512 and 1568 patches are those of the thesis's clips."""
    assert [visible_count(512, ratio) for ratio in (0.9, 0.8)] == [51, 102]
    assert [visible_count(1568, ratio) for ratio in (0.9, 0.8)] == [157, 314]
    assert visible_count(4, 0.999) == 1 and visible_count(4, 0.001) == 3


def test_patches_go_back_to_where_they_were():
    tokens = torch.randn(3, 11, 5)
    places = torch.stack([torch.randperm(11) for _ in range(3)])
    visible, masked = places[:, :4], places[:, 4:]
    assert torch.equal(in_order(taken(tokens, visible), taken(tokens, masked), places), tokens)


def test_positions_are_sines_and_cosines_of_row_and_column():
    found = positions.grid(3, 5, 8)
    for row in range(3):
        for column in range(5):
            expected = []
            for place in (row, column):
                angles = [place / 10000 ** (number / 2) for number in range(2)]
                expected += [*map(math.sin, angles), *map(math.cos, angles)]
            torch.testing.assert_close(found[5 * row + column], torch.tensor(expected))


def test_positions_in_a_video_are_separable():
    found = positions.separable(4, 2, 3, 8).unflatten(0, (4, 2, 3))
    place, time = positions.grid(2, 3, 8).view(2, 3, 8), positions.sinusoids(4, 8)
    torch.testing.assert_close(found[2, 1, 0], time[2] + place[1, 0])
    torch.testing.assert_close(found[3] - found[1], (time[3] - time[1]).expand(2, 3, 8))
