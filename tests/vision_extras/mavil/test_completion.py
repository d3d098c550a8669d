# SPDX-License-Identifier: Apache-2.0
"""Masked patches are put back where they were cut out."""

from __future__ import annotations

import torch

from vision_extras.mavil import MavilConfig, completed

CONFIG = MavilConfig(bands=32, audio_patch=8, video_patch=4)


def batch():
    torch.manual_seed(0)
    return {
        "input_values": torch.rand(2, 40, 32),
        "frames": torch.rand(2, 3, 4, 8, 12),
        "audio_masked": torch.tensor([[19, 0, 6], [1, 2, 3]]),
        "video_masked": torch.tensor([[11, 0], [7, 4]]),
    }


def test_each_masked_patch_is_replaced_and_all_else_stays():
    given = batch()
    audio, video = torch.arange(6.0).view(2, 3, 1).expand(-1, -1, 64), torch.arange(6.0, 10).view(2, 2, 1)
    heard, seen = completed(CONFIG, given, audio, video.expand(-1, -1, 96))
    expected = given["input_values"].clone(), given["frames"].clone()
    for clip in range(2):
        for value, number in enumerate(given["audio_masked"][clip].tolist(), start=3 * clip):
            row, band = divmod(number, 4)
            expected[0][clip, 8 * row : 8 * row + 8, 8 * band : 8 * band + 8] = value
        for value, number in enumerate(given["video_masked"][clip].tolist(), start=6 + 2 * clip):
            time, row, column = number // 6, number % 6 // 3, number % 3
            block = expected[1][clip, :, 2 * time : 2 * time + 2, 4 * row : 4 * row + 4]
            block[..., 4 * column : 4 * column + 4] = value
    assert torch.equal(heard, expected[0])
    assert torch.equal(seen, expected[1])


def test_without_video_there_is_sound_alone():
    given = batch()
    heard, seen = completed(CONFIG, given, torch.zeros(2, 3, 64, dtype=torch.bfloat16))
    assert seen is None
    assert heard.dtype == torch.float32
    assert int((heard == 0).sum()) == 2 * 3 * 64
