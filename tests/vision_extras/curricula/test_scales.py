# SPDX-License-Identifier: Apache-2.0
"""Pools, batch sizes and expansions, against the numbers of chapter 4 and its formulas."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from vision_extras.curricula import SamplerRecipe
from vision_extras.curricula.scales import EXPANSIONS, batch_size_at, expansion, interpolated, scaled


@pytest.mark.parametrize(
    ("images", "side", "smallest", "largest", "expected"),
    [
        # The rows of table 4.8: ResNet, RegNet, ViT and Swin; the same under MSc-VBSWC; EfficientNet; Mask R-CNN.
        (256, 224, 128, 320, {128: 784, 192: 348, 224: 256, 288: 154, 320: 125}),
        (512, 160, 128, 320, {128: 800, 192: 355, 224: 261, 288: 158, 320: 128}),
        (256, 300, 160, 448, {160: 900, 224: 459, 320: 225, 384: 156, 448: 114}),
        (4, 1024, 512, 1280, {512: 16, 704: 8, 896: 5, 1088: 3, 1280: 2}),
    ],
)
def test_table_4_8(images, side, smallest, largest, expected):
    pool = interpolated((smallest, smallest), (largest, largest), 5, 32)
    assert pool == [(side, side) for side in expected]
    assert [batch_size_at(shape, (side, side), images) for shape in pool] == list(expected.values())


@pytest.mark.parametrize("multiple", [1, 3, 8, 32])
@pytest.mark.parametrize("factor", [0.01, 0.25, 0.4, 0.75, 0.99, 1.0])
def test_sides_become_the_nearest_multiple(multiple, factor):
    """Exactly, by fractions: the larger one where two are equally near, and at least one multiple."""
    pool = [(multiple * n, multiple * (2 * n + 1)) for n in range(1, 12)]

    def nearest(side):
        exact = Fraction(factor) * side
        candidates = [multiple * n for n in range(1, 30)]
        return min(candidates, key=lambda candidate: (abs(candidate - exact), -candidate))

    assert scaled(pool, factor, multiple) == sorted({tuple(map(nearest, shape)) for shape in pool})
    assert factor < 1 or scaled(pool, factor, multiple) == pool


def test_the_two_sides_are_interpolated_together():
    assert interpolated((64, 96), (128, 224), 3, 32) == [(64, 96), (96, 160), (128, 224)]
    assert interpolated((64, 64), (96, 64), 5, 32) == [(64, 64), (96, 64)]


@pytest.mark.parametrize("shape", [(7, 5), (8, 8), (9, 31), (100, 3), (1000, 1000)])
def test_a_batch_has_at_most_the_references_pixels(shape):
    rows, pixels = batch_size_at(shape, (12, 20), 17), math.prod(shape)
    assert rows == 1 or rows * pixels <= 17 * 12 * 20
    assert (rows + 1) * pixels > 17 * 12 * 20


@pytest.mark.parametrize("name", EXPANSIONS)
@pytest.mark.parametrize("start", [0.25, 0.75, 1.0])
def test_expansions_rise_from_the_start_to_one(name, start):
    rho = expansion(name, start)
    values = [rho(number / 997) for number in range(998)]
    assert values[0] == start and values[-1] == 1 == rho(1.5)
    assert all(low <= high for low, high in zip(values, values[1:], strict=False))
    assert start == 1 or len(set(values)) == (2 + 1 if name == "multi_step" else 998)


def test_expansions_by_their_formulas():
    for number in range(101):
        x = number / 100
        assert expansion("linear", 0.5)(x) == pytest.approx(0.5 + 0.5 * x)
        assert expansion("cosine", 0.5)(x) == pytest.approx(0.75 - 0.25 * math.cos(math.pi * x))
        assert expansion("polynomial", 0.5, power=3)(x) == pytest.approx(0.5 + 0.5 * x**3)
        thirds = sum(x >= mark for mark in (1 / 3, 2 / 3, 1))
        assert expansion("multi_step", 0.4, stages=3)(x) == pytest.approx(0.4 + 0.2 * thirds)


@pytest.mark.parametrize("until", ["0.14", "0.28", "0.55", "0.57", "0.75"])
@pytest.mark.parametrize("stages", [2, 3, 5])
def test_stages_rise_in_their_epochs(until, stages):
    """Also where an epoch's share of the epochs of expansion is no number of the machine."""
    recipe = SamplerRecipe(
        name="msc_vbswc", smallest=32, largest=64, expansion="multi_step", stages=stages, start=0.5, until=float(until)
    )
    for epochs in (50, 100, 150):
        for epoch in range(epochs):
            risen = math.floor(stages * min(Fraction(1), epoch / (Fraction(until) * epochs)))
            assert recipe.factor(epoch, epochs) == 0.5 + 0.5 * risen / stages
