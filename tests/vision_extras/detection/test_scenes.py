# SPDX-License-Identifier: Apache-2.0
"""Scenes of digits, and batches of them: boxes are where the ink is, at every resolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hylora.randomness import generator
from vision_extras.detection.collate import Boxed
from vision_extras.detection.objects import Marked
from vision_extras.detection.scenes import Scenes, read_scenes
from vision_extras.images import IGNORED, Images


@pytest.fixture(scope="module")
def split():
    return read_scenes(count=60, side=48, most=3, held_out=0.2)


def test_scenes_have_digits_within_and_apart(split):
    assert (len(split.train), len(split.held_out), len(split.classes)) == (48, 12, 10)
    counts = set()
    for number in range(len(split.train)):
        image, boxes, labels = split.train[number]
        assert image.size == (48, 48) and image.mode == "L"
        assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(boxes) == len(labels) and ((labels >= 0) & (labels < 10)).all()
        counts.add(len(labels))
        for one, other in torch.combinations(torch.arange(len(boxes))).tolist():
            least, most = torch.maximum(boxes[one], boxes[other])[:2], torch.minimum(boxes[one], boxes[other])[2:]
            assert (most <= least).any()
    assert counts == {1, 2, 3}


def test_a_scene_depends_on_its_number_and_set_alone(split):
    again = read_scenes(count=60, side=48, most=3, held_out=0.2)
    first = split.train[5]
    split.train[6]
    for one, other in ((first, split.train[5]), (first, again.train[5])):
        assert np.array_equal(one.image, other.image) and torch.equal(one.boxes, other.boxes)
    assert not np.array_equal(first.image, split.train[6].image)
    assert split.train.fingerprint() == again.train.fingerprint() != split.held_out.fingerprint()


def test_a_box_is_where_the_ink_is():
    """On black, with a digit that is one filled square."""
    digit = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    digit[..., 8:20, 4:24] = 255
    scenes = Scenes(Images(digit, torch.tensor([7])), (np.zeros((64, 80), np.uint8),), 20, 48, 1, "square")
    for number in range(20):
        image, boxes, labels = scenes[number]
        rows, columns = ((np.asarray(image) > 64).any(axis).nonzero()[0] for axis in (1, 0))
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert (48 * boxes[0]).tolist() == pytest.approx(expected, abs=1e-4) and labels.tolist() == [7]


def marked(width=40, height=20):
    """A white rectangle on black, and nothing else."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[5:15, 8:16] = 255
    box = torch.tensor([[8 / width, 5 / height, 16 / width, 15 / height]])
    return Marked(Image.fromarray(pixels), box, torch.tensor([3]))


@pytest.mark.parametrize("shape", [(20, 40), (40, 40), (10, 80)])
@pytest.mark.parametrize("flip", [0.0, 1.0 - 1e-9])
def test_boxes_stay_on_their_objects(shape, flip):
    batch = Boxed((0.0,), (1.0,), flip=flip)([marked()], [generator("row", 0)], shape)
    height, width = shape
    centre_x, centre_y, across, down = batch["boxes"][0, 0].tolist()
    bright = batch["images"][0, 0] > 0.5
    rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
    assert (centre_x - across / 2) * width == pytest.approx(int(columns[0]), abs=0.6)
    assert (centre_x + across / 2) * width == pytest.approx(int(columns[-1]) + 1, abs=0.6)
    assert (centre_y - down / 2) * height == pytest.approx(int(rows[0]), abs=0.6)
    assert (centre_y + down / 2) * height == pytest.approx(int(rows[-1]) + 1, abs=0.6)
    assert (centre_x < 0.5) == (flip == 0.0)


def test_images_with_fewer_objects_are_filled_up():
    none = Marked(marked().image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    batch = Boxed((0.0,), (1.0,))([none, marked()], [None, None], (8, 8))
    assert batch["labels"].tolist() == [[IGNORED], [3]] and batch["boxes"].shape == (2, 1, 4)
    alone = Boxed((0.0,), (1.0,))([none], [None], (8, 8))
    assert alone["labels"].tolist() == [[IGNORED]]
