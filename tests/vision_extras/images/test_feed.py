# SPDX-License-Identifier: Apache-2.0
"""Batches of a run and of an evaluation: the same for any workers, processes and interruptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hylora.training.feed import RowFeed, Share, WindowSize
from hylora.training.moment import Moment
from hylora.training.recipe import RecipeError
from vision_extras.images import IGNORED, Augmented, AugmentRecipe, ImagesRecipe, dealt, load_split
from vision_extras.recipe import ImageRecipe

CHANGES = {"shift": 2, "scale": (0.3, 1.0), "flip": 0.5, "randaugment": 2, "erase": 0.5}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Files of several sizes."""
    folder = tmp_path_factory.mktemp("images")
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30 - number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return load_split(ImagesRecipe(name="folder", path=str(folder), held_out=0.35))


def size(moment):
    """The resolution changes from update to update, and windows go over the end of an epoch."""
    return WindowSize(8, 2, ((12, 12), (8, 16), (16, 10))[moment.step % 3])


def windows(split, share=None, workers=0, steps=range(5), **more):
    plain = split.plain
    collate = Augmented(plain.mean, plain.std, recipe=AugmentRecipe(**CHANGES, **more), classes=2)
    feed = RowFeed(split.train, collate, size, share or Share(), workers)
    return [feed.window(Moment(step, 5, 7)) for step in steps]


def assert_equal(found, expected):
    for window, other in zip(found, expected, strict=True):
        for batch, reference in zip(window, other, strict=True):
            assert batch.keys() == reference.keys()
            assert all(torch.equal(batch[name], reference[name]) for name in batch)


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.2, "cutmix": 1.0}], ids=["apart", "mixed"])
def test_workers_and_interruptions_change_nothing(split, mixing):
    expected = windows(split, **mixing)
    assert [window[0]["images"].shape[-2:] for window in expected[:3]] == [(12, 12), (8, 16), (16, 10)]
    assert_equal(windows(split, workers=2, **mixing), expected)
    assert_equal(windows(split, steps=range(3, 5), **mixing), expected[3:])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_see_the_images_that_one_sees(split, processes):
    """Each changed as it is there."""

    def rows(windows):
        return [
            {tuple(image.flatten().tolist()) for batch in window for image in batch["images"]} for window in windows
        ]

    parts = [rows(windows(split, Share(rank, processes))) for rank in range(processes)]
    assert [set().union(*step) for step in zip(*parts, strict=True)] == rows(windows(split))


@pytest.mark.parametrize(("processes", "batch_size"), [(1, 3), (2, 2), (3, 5)])
@pytest.mark.parametrize("workers", [0, 1])
def test_held_out_images_are_dealt_once(split, processes, batch_size, workers):
    """And every process has as many batches as every other."""
    held_out = split.held_out
    parts = [
        list(dealt(held_out, split.plain, (9, 7), batch_size, Share(rank, processes), workers))
        for rank in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    seen = [
        (tuple(image.flatten().tolist()), int(label))
        for part in parts
        for batch in part
        for image, label in zip(batch["images"], batch["labels"], strict=True)
        if label != IGNORED
    ]
    rows = [held_out[index] for index in range(len(held_out))]
    whole = split.plain(rows, [None] * len(rows), (9, 7))
    expected = [
        (tuple(image.flatten().tolist()), int(label))
        for image, label in zip(whole["images"], whole["labels"], strict=True)
    ]
    assert sorted(seen) == sorted(expected)


def test_images_of_any_size_need_a_reference_side():
    tree = {"task": "images", "images": {"name": "folder", "path": "x"}, "output": {"path": "y"}}
    with pytest.raises(RecipeError, match=r"sampler.side=None must be given.*images.name='folder'"):
        ImageRecipe.from_tree(tree)
    assert ImageRecipe.from_tree({**tree, "sampler": {"side": 64}}).sampler.shape == (64, 64)
