# SPDX-License-Identifier: Apache-2.0
"""Real images without torchvision: what is held out, and what augmentation does."""

from __future__ import annotations

import pytest
import torch

from hylora.randomness import generator
from vision_extras.images import SOURCES, Augmented, Images, Resized, Split, load_split


@pytest.mark.parametrize(("name", "count", "ink"), [("digits", 1797, 0.31), ("mnist", 5000, 0.13)])
def test_a_source_gives_what_it_says(name, count, ink):
    source, split = SOURCES[name], load_split(name, 0.2)
    assert len(split.train) + len(split.held_out) == count
    for images in (split.train, split.held_out):
        image, label = images[0]
        assert image.shape == (source.channels, source.side, source.side) and 0 <= label < source.classes
        assert set(images.labels.tolist()) == set(range(source.classes))
        assert image.min() >= 0 and image.max() <= 1
    assert float((split.train.pixels / 255.0).mean()) == pytest.approx(ink, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_about_the_share_is_held_out(share):
    split = load_split("digits", share)
    assert len(split.held_out) / 1797 == pytest.approx(share, abs=0.03)


def test_what_is_held_out_depends_on_the_image_alone():
    whole = SOURCES["digits"].read()
    backwards = Images(whole.pixels.flip(0), whole.labels.flip(0))
    twice = Images(torch.cat([whole.pixels] * 2), torch.cat([whole.labels] * 2))
    expected = Split.by_content(whole, 0.2).held_out
    assert torch.equal(Split.by_content(backwards, 0.2).held_out.pixels.flip(0), expected.pixels)
    assert torch.equal(Split.by_content(twice, 0.2).held_out.pixels, torch.cat([expected.pixels] * 2))


def test_a_fingerprint_tells_one_pixel_one_label_and_the_order():
    images = load_split("digits", 0.0).train
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[3, 0, 2, 2] ^= 1
    labels[3] = (labels[3] + 1) % 10
    others = [
        Images(pixels, images.labels),
        Images(images.pixels, labels),
        Images(images.pixels.flip(0), images.labels.flip(0)),
    ]
    assert len({item.fingerprint() for item in (images, *others)}) == 4
    assert load_split("digits", 0.0).train.fingerprint() == images.fingerprint()


def draws(count, start=0):
    return [generator("row", 0, position) for position in range(start, start + count)]


def test_an_image_is_moved_by_its_own_generator():
    image = torch.arange(1.0, 26.0).reshape(1, 5, 5)
    collate = Augmented(shift=2)
    together = collate([(image, 0)] * 6, draws(6), 5)["images"]
    apart = torch.cat([collate([(image, 0)], draws(1, start=n), 5)["images"] for n in range(6)])
    assert torch.equal(together, apart)
    assert len({tuple(moved.flatten().tolist()) for moved in together}) > 1


def test_every_move_within_the_shift_comes_up():
    image = torch.zeros(1, 5, 5)
    image[0, 2, 2] = 1.0
    moved = Augmented(shift=1)([(image, 0)] * 200, draws(200), 5)["images"]
    where = {tuple(position) for position in moved[:, 0].nonzero()[:, 1:].tolist()}
    assert where == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_a_batch_has_the_windows_shape(side):
    rows = [load_split("digits", 0.0).train[index] for index in range(6)]
    batch = Resized()([*rows, (torch.full((1, 8, 8), 0.3), 7)], draws(7), side)
    images = batch["images"]
    assert images.shape == (7, 1, side, side) and images.dtype == torch.float32
    assert batch["labels"].tolist() == [*(label for _, label in rows), 7]
    assert images.min() >= 0 and images.max() <= 1
    torch.testing.assert_close(images[-1], torch.full((1, side, side), 0.3))
    if side == 8:
        assert torch.equal(images[:-1], torch.stack([image for image, _ in rows]))
