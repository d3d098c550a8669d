# SPDX-License-Identifier: Apache-2.0
"""Compressions by name do what their definitions say."""

from __future__ import annotations

import pytest
import torch

from vision_extras.sparse.compression import check_compression, compress, share_range

DRAW = torch.Generator().manual_seed(0)
WEIGHTS = {"conv": torch.randn(5, 8, 3, 3, generator=DRAW), "linear": torch.randn(7, 12, generator=DRAW)}


def compressed(level, scope="global"):
    weights = {name: weight.clone() for name, weight in WEIGHTS.items()}
    return weights, compress(weights, level, scope)


def test_a_share_takes_the_smallest():
    weights, gone = compressed(0.75)
    magnitudes = torch.cat([weight.abs().flatten() for weight in WEIGHTS.values()])
    expected = magnitudes.sort().values[len(magnitudes) * 3 // 4]
    for name, weight in weights.items():
        assert torch.equal(weight != 0, WEIGHTS[name].abs() >= expected) and torch.equal(weight == 0, gone[name])


def test_a_pattern_goes_along_input_channels():
    weights, _ = compressed("3:4")
    for output, row, column in ((0, 0, 0), (4, 2, 1)):
        for first in (0, 4):
            group = WEIGHTS["conv"][output, first : first + 4, row, column]
            kept = weights["conv"][output, first : first + 4, row, column]
            assert kept.nonzero().flatten().tolist() == [int(group.abs().argmax())]
    assert (weights["linear"].reshape(7, 3, 4) != 0).sum(-1).eq(1).all()


def test_bits_round_to_the_nearest_of_fifteen_values_of_each_channel():
    weights, gone = compressed("4bit")
    assert gone is None
    for name, weight in weights.items():
        step = WEIGHTS[name].flatten(1).abs().amax(1) / 7
        for channel, before, size in zip(weight, WEIGHTS[name], step, strict=True):
            torch.testing.assert_close(channel / size, (before / size).round())
            assert len(channel.unique()) <= 15


@pytest.mark.parametrize("level", [1.0, -0.1, "2:2", "0:4", "9bit", "half", ""])
def test_what_is_no_compression_is_refused(level):
    with pytest.raises(ValueError, match="must be"):
        check_compression(level)


def test_ranges():
    assert share_range("0.3-0.9") == (0.3, 0.9) and share_range("2:4") is None and share_range(0.5) is None
    with pytest.raises(ValueError, match="smaller share before"):
        share_range("0.9-0.3")
