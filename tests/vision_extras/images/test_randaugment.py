# SPDX-License-Identifier: Apache-2.0
"""Each operation of RandAugment against a plain definition on pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageEnhance

from hylora.randomness import generator
from vision_extras.images import randaugment as module
from vision_extras.images.randaugment import OPERATIONS, randaugment


@pytest.fixture(scope="module")
def image():
    """The colours of a photograph do not fill their range, and are no noise."""
    import skimage.data

    return Image.fromarray(skimage.data.chelsea()[60:100, 80:140])


def apply(name, image, strength):
    return np.asarray(OPERATIONS[name](image, strength)).astype(int)


def sampled(image, position):
    """Bilinear between pixels, whose centres are at half numbers; black outside."""
    pixels = np.pad(np.asarray(image).astype(float), ((1, 1), (1, 1), (0, 0)))
    found = np.zeros_like(np.asarray(image), dtype=float)
    inside = np.zeros(found.shape[:2], dtype=bool)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            x, y = position(column + 0.5, row + 0.5)
            inside[row, column] = 1 <= x < image.width - 1 and 1 <= y < image.height - 1
            if not inside[row, column]:
                continue
            x, y = x - 0.5, y - 0.5
            left, top = int(np.floor(x)), int(np.floor(y))
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = abs(1 - dy - (y - top)) * abs(1 - dx - (x - left))
                found[row, column] += weight * pixels[top + dy + 1, left + dx + 1]
    return found, inside


ANGLE = np.deg2rad(30 * 0.6)


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("identity", lambda x, y: (x, y)),
        ("shear_x", lambda x, y: (x + 0.3 * 0.6 * y, y)),
        ("shear_y", lambda x, y: (x, y + 0.3 * 0.6 * x)),
        ("translate_x", lambda x, y: (x + 0.45 * 0.6 * 60, y)),
        ("translate_y", lambda x, y: (x, y + 0.45 * 0.6 * 40)),
        (
            "rotate",
            lambda x, y: (
                30 + np.cos(ANGLE) * (x - 30) - np.sin(ANGLE) * (y - 20),
                20 + np.sin(ANGLE) * (x - 30) + np.cos(ANGLE) * (y - 20),
            ),
        ),
    ],
)
def test_geometry(image, name, position):
    expected, inside = sampled(image, position)
    found = apply(name, image, 0.6)
    assert np.abs(found - expected)[inside].max() <= 1 and inside.mean() > 0.3
    if name != "identity":
        assert np.abs(found - np.asarray(image).astype(int))[inside].max() > 20


@pytest.mark.parametrize("strength", [-0.7, 0.0, 0.7])
def test_enhancement(image, strength):
    """What is blended with: black, the grey image, its mean grey, and a softened one."""
    pixels, factor = np.asarray(image).astype(float), 1 + 0.9 * strength
    grey = np.asarray(image.convert("L")).astype(float)
    soft = np.asarray(ImageEnhance.Sharpness(image).degenerate).astype(float)
    blended_with = {
        "brightness": np.zeros_like(pixels),
        "color": np.repeat(grey[..., None], 3, 2),
        "contrast": np.full_like(pixels, int(grey.mean() + 0.5)),
        "sharpness": soft,
    }
    for name, other in blended_with.items():
        expected = np.clip(factor * pixels + (1 - factor) * other, 0, 255)
        assert np.abs(apply(name, image, strength) - expected).max() <= 1, name


@pytest.mark.parametrize(("strength", "bits"), [(0.0, 8), (0.3, 7), (0.5, 6), (1.0, 4)])
def test_posterize_keeps_the_upper_bits(image, strength, bits):
    assert np.array_equal(apply("posterize", image, strength), np.asarray(image) >> (8 - bits) << (8 - bits))


@pytest.mark.parametrize(("strength", "threshold"), [(0.0, 256), (0.5, 128), (1.0, 0)])
def test_solarize_turns_bright_pixels_round(image, strength, threshold):
    pixels = np.asarray(image).astype(int)
    assert np.array_equal(apply("solarize", image, strength), np.where(pixels < threshold, pixels, 255 - pixels))


def test_autocontrast_fills_the_range_of_each_channel(image):
    pixels = np.asarray(image).astype(float)
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    expected = (pixels - low) * 255 / (high - low)
    assert np.abs(apply("autocontrast", image, 0.4) - expected).max() <= 1 and low.max() > 0


def test_equalize_evens_the_histogram(image):
    """The share of pixels below each value becomes the value."""
    before, found = np.asarray(image), apply("equalize", image, 0.4)
    for channel in range(3):
        ranks = np.array([(before[..., channel] < value).mean() for value in range(256)])
        assert np.abs(found[..., channel] / 255 - ranks[before[..., channel]]).max() < 0.05


def test_every_operation_takes_grey_images(image):
    grey = image.convert("L")
    for name in OPERATIONS:
        assert OPERATIONS[name](grey, 0.5).mode == "L" and OPERATIONS[name](grey, 0.5).size == grey.size


def test_operations_and_signs_are_drawn_evenly(monkeypatch):
    seen = []
    recorded = {name: lambda image, strength, name=name: seen.append((name, strength)) or image for name in OPERATIONS}
    monkeypatch.setattr(module, "OPERATIONS", recorded)
    for position in range(1000):
        randaugment(Image.new("L", (4, 4)), 2, 15, generator("row", 0, position))
    assert len(seen) == 2000
    for name in OPERATIONS:
        strengths = [strength for found, strength in seen if found == name]
        assert 90 < len(strengths) < 200
        if name in ("posterize", "solarize"):
            assert set(strengths) == {0.5}
        else:
            assert set(strengths) == {-0.5, 0.5} and abs(sum(strengths)) < 0.15 * len(strengths)


def test_operations_follow_each_other(image):
    draw = generator("row", 0, 3)
    once = randaugment(image, 1, 20, draw)
    twice = randaugment(once, 1, 20, draw)
    assert ImageChops.difference(randaugment(image, 2, 20, generator("row", 0, 3)), twice).getbbox() is None
    assert randaugment(image, 0, 20, draw) is image
