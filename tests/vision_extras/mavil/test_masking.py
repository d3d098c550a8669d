# SPDX-License-Identifier: Apache-2.0
"""The curriculum of masks: its shares, its batches, and which patches they hide."""

from __future__ import annotations

import pytest
import torch

from hylora.randomness import generator
from hylora.training.feed import Share
from hylora.training.moment import Moment
from vision_extras.curricula import Plan
from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.masking import Masked, MaskRecipe


def test_the_share_falls_on_a_line():
    mask = MaskRecipe(first=0.9, last=0.8)
    assert [mask.pool(epoch, 5) for epoch in range(5)] == [[pytest.approx(0.9 - 0.025 * e)] for e in range(5)]
    assert mask.ratio(0, 1) == 0.9


def test_batches_grow_with_what_is_masked():
    """B_e = (1 - 0.8) / (1 - rho_e) B_0 of the thesis, also where it rises."""
    mask = MaskRecipe(first=0.9, last=0.8, adaptive=True)
    assert [mask.batch_size(mask.ratio(e, 3), 64) for e in range(3)] == [128, 85, 64]
    rising = MaskRecipe(first=0.8, last=0.9, adaptive=True)
    assert [rising.batch_size(rising.ratio(e, 3), 64) for e in range(3)] == [64, 85, 128]
    assert MaskRecipe(first=0.9, last=0.8).batch_size(0.9, 64) == 64


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_clip_is_seen_once_in_an_epoch(processes):
    """By processes that have nearly equally many, in passes of about as many visible patches."""
    mask, shares = (
        MaskRecipe(first=0.9, last=0.5, adaptive=True),
        [Share(rank, processes) for rank in range(processes)],
    )
    plan = Plan(mask, 337, 4, 24, 8, seed=0, processes=processes)
    for epoch in range(4):
        seen = []
        for step in range(plan.first_step(epoch), plan.first_step(epoch + 1)):
            window = plan.window(Moment(step, plan.steps, 0))
            assert window.shape == mask.ratio(epoch, 4)
            parts = [window.parts(share) for share in shares]
            sizes = [len(rows) for part in parts for rows, _ in part]
            assert max(sizes) - min(sizes) <= 1 and len({len(part) for part in parts}) == 1
            assert max(sizes) * (1 - window.shape) <= 8 * 0.5 + 1
            seen.append(window.rows)
        assert sum(seen) == 337 and plan.rows_by_shape(epoch) == {mask.ratio(epoch, 4): 337}


@pytest.mark.parametrize(("field", "value"), [("first", 1.0), ("last", 0.0), ("first", -0.1), ("last", 1.5)])
def test_shares_outside_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} must be above 0 and below 1"):
        MaskRecipe(**{field: value})


class Named:
    def __init__(self, name):
        self.name = name


def collate(rows, generators, shape):
    return {"input_values": torch.zeros(len(rows), 64, 64), "frames": torch.zeros(len(rows), 3, 4, 16, 16)}


def masked(rows, draws, ratio, **settings):
    config = MavilConfig(bands=64, video_patch=8, **settings)
    return Masked(collate, config)([Named(name) for name in rows], draws, ratio)


def test_a_view_and_what_it_hides_are_all_patches_once():
    batch = masked("abc", [generator("row", 0, number) for number in range(3)], 0.75)
    assert batch["audio_visible"].shape == (3, 2, 4) and batch["video_visible"].shape == (3, 2, 2)
    for name, patches in (("audio", 16), ("video", 8)):
        first = torch.cat([batch[f"{name}_visible"][:, 0], batch[f"{name}_masked"]], dim=1)
        assert torch.equal(first.sort(1).values, torch.arange(patches).expand(3, -1))
        assert all(len(set(view.tolist())) == len(view) for view in batch[f"{name}_visible"].flatten(0, 1))
    assert not torch.equal(batch["audio_visible"][:, 0], batch["audio_visible"][:, 1])
    assert batch["steps"].min() >= 1 and batch["steps"].max() <= 1000


def test_a_clip_is_masked_by_its_own_generator():
    """Whatever the batch is; without one by its name."""
    draws = {name: generator("row", 0, number) for number, name in enumerate("abc")}
    three = masked("abc", list(draws.values()), 0.75)
    alone = masked("b", [generator("row", 0, 1)], 0.75)
    assert all(torch.equal(three[name][1:2], alone[name]) for name in three)
    named, again = masked("abc", [None] * 3, 0.75), masked("cb", [None] * 2, 0.75)
    assert all(torch.equal(named[name][[2, 1]], again[name]) for name in named)


def test_one_modality_has_one_view_and_no_noise_where_none_is_wanted():
    batch = masked("ab", [None, None], 0.75, video=False, diffusion=False)
    assert batch.keys() == {"input_values", "audio_visible", "audio_masked"}
    assert batch["audio_visible"].shape == (2, 1, 4)


def test_every_step_of_the_noise_is_as_likely():
    steps = masked(range(4000), [generator("row", 0, number) for number in range(4000)], 0.75, noise_steps=4)["steps"]
    assert steps.bincount().tolist()[0] == 0
    assert steps.bincount(minlength=5)[1:].float().div(4000).tolist() == [pytest.approx(0.25, abs=0.03)] * 4
