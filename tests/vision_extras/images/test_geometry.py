# SPDX-License-Identifier: Apache-2.0
"""Which part of an image is seen, against plain references, and batches of every shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hylora.randomness import generator
from vision_extras.images import Augmented, AugmentRecipe, Resized
from vision_extras.images.geometry import central_box, flipped, random_box, random_rectangle, resized, shifted

PLAIN = Resized((0.0,), (1.0,))


def draws(count, start=0):
    return [generator("row", 0, position) for position in range(start, start + count)]


def noise(height, width, seed=0, channels=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


def tensor(image):
    return torch.from_numpy(np.array(image)).float().reshape(image.height, image.width, -1).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "shape", "crop", "box"),
    [
        ((8, 8), (4, 4), 1.0, (0, 0, 8, 8)),
        ((500, 375), (224, 224), 1.0, (62.5, 0, 437.5, 375)),
        ((375, 500), (224, 224), 0.875, (23.4375, 85.9375, 351.5625, 414.0625)),
        ((100, 100), (10, 20), 1.0, (0, 25, 100, 75)),
        ((100, 50), (10, 20), 0.5, (25, 12.5, 75, 37.5)),
    ],
)
def test_the_central_box(size, shape, crop, box):
    assert central_box(size, shape, crop) == pytest.approx(box)


def test_the_central_box_is_within_the_image_at_any_size():
    """279 * (146 / 279) comes to a rounding error more than 146."""
    sides = torch.randint(1, 700, (2000, 4), generator=torch.Generator().manual_seed(0))
    for width, height, *shape in [(245, 146, 279, 279), *sides.tolist()]:
        left, top, right, bottom = central_box((width, height), tuple(shape))
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
    assert resized(noise(146, 245), central_box((245, 146), (279, 279)), (279, 279)).size == (279, 279)


def test_it_is_the_shorter_side_resized_and_the_centre_cropped():
    """As the customary evaluation does it: 256 of the shorter side, of which 224 are seen."""
    image = noise(128, 192)
    expected = tensor(image.resize((96, 64), Image.Resampling.BILINEAR).crop((20, 4, 76, 60)))
    found = tensor(resized(image, central_box(image.size, (56, 56), 56 / 64), (56, 56)))
    assert float((found - expected).abs().max()) <= 1 < float(expected.std())


@pytest.mark.parametrize("shape", [(16, 16), (16, 32), (24, 8)])
def test_random_boxes_have_the_area_and_the_sides_that_are_drawn(shape):
    size, scale, ratio = (120, 80), (0.1, 0.4), (3 / 4, 4 / 3)
    boxes = [random_box(size, shape, scale, ratio, draw) for draw in draws(400)]
    left, top, right, bottom = (torch.tensor(edge, dtype=torch.float64) for edge in zip(*boxes, strict=True))
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 120 and bottom.max() <= 80
    area = (right - left) * (bottom - top) / (120 * 80)
    sides = ((right - left) / (bottom - top) * shape[0] / shape[1]).log()
    assert area.min() > 0.09 and area.max() < 0.41
    assert sides.min() > -0.34 and sides.max() < 0.34
    # Evenly over areas and logarithms, where every attempt fits.
    if shape == (16, 16):
        assert float(area.mean()) == pytest.approx(0.25, abs=0.02) and float(area.std()) == pytest.approx(
            0.3 / 12**0.5, abs=0.01
        )
        assert float(sides.mean()) == pytest.approx(0, abs=0.04)
        assert float((left / (120 - right + left)).mean()) == pytest.approx(0.5, abs=0.05)


def test_where_no_box_fits_it_is_the_central_one():
    assert random_rectangle((100, 10), (1.0, 1.0), (1.0, 1.0), draws(1)[0]) is None
    assert random_box((100, 10), (5, 5), (1.0, 1.0), (1.0, 1.0), draws(1)[0]) == (45, 0, 55, 10)
    assert random_box((9, 9), (5, 5), (1.0, 1.0), (1.0, 1.0), draws(1)[0]) == (0, 0, 9, 9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(7, 7), (10, 6), (30, 41)])
def test_a_part_is_resized_as_torch_resizes_it(shape, channels):
    """Bilinear and without aliasing, up and down; PIL rounds to whole steps between its two passes."""
    image = noise(21, 33, channels=channels)
    found = tensor(resized(image, (0, 0, 33, 21), shape))
    expected = F.interpolate(tensor(image)[None], shape, mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01)


def test_a_shift_is_a_crop_of_the_image_with_a_border():
    """One of the moves within the shift, each of them as likely."""
    image = noise(5, 6, channels=1)
    padded = np.pad(np.array(image), 2)
    moves = {(y, x): padded[y : y + 5, x : x + 6] for y in range(5) for x in range(5)}
    seen = dict.fromkeys(moves, 0)
    for draw in draws(1000):
        moved = np.array(shifted(image, 2, draw))
        (move,) = [move for move, expected in moves.items() if np.array_equal(moved, expected)]
        seen[move] += 1
    assert min(seen.values()) > 15 and max(seen.values()) < 75


def test_flips():
    image = noise(4, 5)
    mirrored = np.array(image)[:, ::-1]
    found = [np.array_equal(np.array(flipped(image, 0.3, draw)), mirrored) for draw in draws(500)]
    assert sum(found) / 500 == pytest.approx(0.3, abs=0.06)
    assert np.array_equal(np.array(flipped(image, 0.0, draws(1)[0])), np.array(image))


@pytest.mark.parametrize("shape", [(2, 2), (8, 8), (16, 12), (6, 20)])
def test_a_batch_has_the_windows_shape_whatever_the_images_have(shape):
    images = [noise(9, 12), noise(30, 20), Image.new("RGB", (5, 40), (51, 102, 204))]
    rows = [(image, label) for label, image in enumerate(images)]
    batch = PLAIN(rows, [None] * 3, shape)
    found = batch["images"]
    assert found.shape == (3, 3, *shape) and found.dtype == torch.float32 and found.is_contiguous()
    assert batch["labels"].tolist() == [0, 1, 2] and batch["labels"].dtype == torch.int64
    assert found.min() >= 0 and found.max() <= 1
    for channel, value in enumerate((0.2, 0.4, 0.8)):
        torch.testing.assert_close(found[2, channel], torch.full(shape, value))


def test_pixels_are_normalised_by_channel():
    rows = [(noise(6, 6, seed), seed) for seed in range(4)]
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    expected = PLAIN(rows, [None] * 4, (6, 6))["images"]
    assert torch.equal(expected, torch.stack([tensor(image) for image, _ in rows]) / 255)
    for channel in range(3):
        expected[:, channel] = (expected[:, channel] - mean[channel]) / std[channel]
    torch.testing.assert_close(Resized(mean, std)(rows, [None] * 4, (6, 6))["images"], expected)


EVERYTHING = AugmentRecipe(
    shift=2, scale=(0.3, 1.0), flip=0.5, randaugment=2, erase=0.5, mixup=0.2, cutmix=1.0, label_smoothing=0.1
)


def augmented(recipe, classes=10):
    return Augmented((0.0,), (1.0,), recipe=recipe, classes=classes)


def test_without_augmentation_batches_are_plain():
    rows = [(noise(9, 12, seed), seed) for seed in range(3)]
    found, expected = augmented(AugmentRecipe())(rows, draws(3), (8, 6)), PLAIN(rows, [None] * 3, (8, 6))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_image_is_changed_by_its_own_generator():
    """Whatever is beside it; mixing has partners, and its draws alone do not depend on them."""
    recipe = AugmentRecipe(shift=2, scale=(0.3, 1.0), flip=0.5, randaugment=2, erase=0.5)
    collate, image = augmented(recipe), noise(16, 16)
    together = collate([(image, 0)] * 6, draws(6), (12, 12))["images"]
    apart = torch.cat([collate([(image, 0)], draws(1, start=n), (12, 12))["images"] for n in range(6)])
    assert torch.equal(together, apart)
    assert len({tuple(changed.flatten().tolist()) for changed in together}) == 6


def test_everything_at_once_is_repeatable():
    collate = augmented(EVERYTHING)
    rows = [(noise(16, 20, seed), seed % 10) for seed in range(12)]
    once, twice = (collate(rows, draws(12), (12, 8)) for _ in range(2))
    assert torch.equal(once["images"], twice["images"]) and torch.equal(once["labels"], twice["labels"])
    assert once["labels"].shape == (12, 10) and once["labels"].dtype == torch.float32
    torch.testing.assert_close(once["labels"].sum(1), torch.ones(12))
    other = collate(rows, draws(12, start=12), (12, 8))
    assert not torch.equal(once["images"], other["images"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift": -1}, "shift=-1 must be at least 0"),
        ({"flip": 1.5}, "flip=1.5 must be at least 0 and at most 1"),
        ({"magnitude": 31}, "magnitude=31 must be at least 0 and at most 30"),
        ({"scale": (0.5, 1.5)}, r"scale=\(0.5, 1.5\) must be above 0 and at most 1"),
        ({"scale": (0.5, 0.1)}, r"scale=\[0.5, 0.1\] must name the least before the greatest"),
        ({"ratio": (0.0, 1.0)}, "ratio=.* must be above 0"),
        ({"mixup": -0.2}, "mixup=-0.2 must be at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 must be at least 0 and below 1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AugmentRecipe(**fields)
