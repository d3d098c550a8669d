# SPDX-License-Identifier: Apache-2.0
"""The plan of a run's updates: each epoch image by image, for one to three processes."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter

import pytest
import torch

from hylora.training.feed import RowFeed, Share, WindowSize
from hylora.training.moment import Moment
from vision_extras.curricula import Plan, RankWindow, SamplerRecipe

POOL = {"smallest": 16, "largest": 40, "multiple": 4}
SAMPLERS = {
    "ssc_fbs": {},
    "msc_fbs": POOL,
    "msc_vbs": POOL,
    "msc_vbswc": {**POOL, "start": 0.5},
}
NAMES = list(SAMPLERS)


def sampler(name, **settings):
    return SamplerRecipe(**{"name": name, "side": 28, **SAMPLERS[name], **settings})


def windows(plan):
    """Each epoch's windows."""
    every = [plan.window(Moment(step, plan.steps, 0)) for step in range(plan.steps)]
    starts = [plan.first_step(epoch) for epoch in range(plan.epoch(plan.steps - 1) + 2)]
    return [every[first:last] for first, last in itertools.pairwise(starts)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("images", "batch_size"), [(501, 64), (640, 64), (7, 64), (333, 1), (1000, 37)])
def test_every_update_by_the_formulas(name, images, batch_size):
    recipe, epochs = sampler(name), 8
    plan = Plan(recipe, images, epochs, batch_size, 16, seed=3)
    for epoch, found in enumerate(windows(plan)):
        factor = 0.75 - 0.25 * math.cos(math.pi * min(1, epoch / 4)) if name == "msc_vbswc" else 1
        sides = (28,) if name == "ssc_fbs" else (16, 24, 28, 36, 40)
        pool = {4 * math.floor(factor * side / 4 + 0.5) for side in sides}
        assert {side for side, _ in recipe.pool(epoch, epochs)} == pool
        left = images
        for window in found:
            height, width = window.shape
            whole = max(1, 28 * 28 * batch_size // height**2) if "vbs" in name else batch_size
            # A single image that would be left joins, unless batches are of single images.
            rows = left if left == whole + 1 and batch_size > 1 else min(whole, left)
            assert height == width and height in pool and window.rows == rows
            left -= window.rows
        assert left == 0


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "shape_per_rank"), [*((name, False) for name in NAMES), *((name, True) for name in NAMES[1:])]
)
@pytest.mark.parametrize(
    ("images", "batch_size", "rows_per_pass"), [(501, 60, 60), (3, 6, 3), (997, 36, 6), (49, 7, 7)]
)
def test_every_image_once_whatever_the_processes(name, images, batch_size, rows_per_pass, shape_per_rank, processes):
    """Through the feed, whose workers get positions and shapes: as many passes on each process, and none empty."""
    recipe = sampler(name, **({"shape_per_rank": True} if shape_per_rank else {}))
    plan = Plan(recipe, images, 3, batch_size, rows_per_pass, 5, processes)

    def collate(rows, generators, shape):
        return {"rows": torch.tensor(rows), "shape": torch.tensor(shape)}

    feeds = [RowFeed(range(images), collate, plan.window, Share(rank, processes)) for rank in range(processes)]
    for epoch in range(3):
        seen, by_shape = Counter(), Counter()
        for step in range(plan.first_step(epoch), plan.first_step(epoch + 1)):
            batches = [feed.window(Moment(step, plan.steps, 5)) for feed in feeds]
            assert len({len(own) for own in batches}) == 1
            shapes = [{tuple(batch["shape"].tolist()) for batch in own} for own in batches]
            assert all(len(own) == 1 for own in shapes) and (shape_per_rank or len(set.union(*shapes)) == 1)
            for (shape,), own in zip(shapes, batches, strict=True):
                limit = rows_per_pass * 28 * 28 / math.prod(shape) if "vbs" in name else rows_per_pass
                assert all(1 <= len(batch["rows"]) <= max(2, limit + 2) for batch in own)
                by_shape[shape] += sum(len(batch["rows"]) for batch in own)
            told = plan.batches(step)
            assert sum(rows for rows, _ in told) == sum(len(batch["rows"]) for own in batches for batch in own)
            assert {shape for _, shape in told} == set.union(*shapes)
            seen.update(row for own in batches for batch in own for row in batch["rows"].tolist())
        assert seen == Counter(range(images)) and by_shape == plan.rows_by_shape(epoch)


def test_a_shape_for_each_process():
    """Each has its share of the reference batch, in its own resolution; what is left has one resolution."""
    plan = Plan(sampler("msc_vbs", shape_per_rank=True), 2000, 2, 48, 8, 0, processes=3)
    for found in windows(plan):
        *whole, last = found
        assert all(isinstance(window, RankWindow) for window in whole) and isinstance(last, WindowSize)
        assert all(rows == 28 * 28 * 16 // height**2 for window in whole for rows, (height, _) in window.batches)
        assert {window.passes(3) for window in whole} == {2}
        assert max(len(set(window.batches)) for window in whole) == 3
        ranges = [part for rank in range(3) for part, _ in whole[0].parts(Share(rank, 3))]
        assert list(itertools.chain(*ranges)) == list(range(whole[0].rows))


@pytest.mark.parametrize("images", [3, 10, 11, 12, 64])
def test_one_image_in_a_pass(images):
    """Where passes of one would leave a process without any, two are in some."""
    plan = Plan(sampler("msc_vbs"), images, 2, 6, 1, 0, processes=3)
    for window in itertools.chain(*windows(plan)):
        parts = [part for rank in range(3) for part, _ in window.parts(Share(rank, 3))]
        assert sorted(itertools.chain(*parts)) == list(range(window.rows))
        whole = 6 * 28 * 28 / window.shape[0] ** 2
        assert all(1 <= len(part) <= max(2, whole / 6 + 1) for part in parts)
    assert Plan(sampler("msc_vbs", shape_per_rank=True), 64, 2, 6, 1, 0).steps
    with pytest.raises(ValueError, match="2 forward passes need .*, and a reference batch of 6 leaves it 1 of"):
        Plan(sampler("msc_vbs", shape_per_rank=True), 64, 2, 6, 1, 0, processes=3)


def test_few_images_at_the_end_join_the_update_before():
    plans = {processes: Plan(sampler("ssc_fbs"), 68, 1, 32, 16, 0, processes) for processes in (1, 2, 3)}
    rows = {processes: [window.rows for window in windows(plan)[0]] for processes, plan in plans.items()}
    assert rows == {1: [32, 32, 4], 2: [32, 32, 4], 3: [32, 36]}
    assert plans[3].window(Moment(1, 2, 0)).passes(3) == 1
    assert plans[1].fingerprint() == plans[2].fingerprint() != plans[3].fingerprint()
    assert [window.rows for window in windows(Plan(sampler("ssc_fbs"), 65, 1, 32, 16, 0))[0]] == [32, 33]
    assert [window.rows for window in windows(Plan(sampler("ssc_fbs"), 3, 1, 1, 1, 0))[0]] == [1, 1, 1]


def test_processes_change_no_update_of_whole_batches():
    plans = [Plan(sampler("msc_vbs"), 1000, 3, 24, 8, 1, processes) for processes in (1, 2, 3)]
    one, two, three = ([(window.rows, window.shape) for window in itertools.chain(*windows(plan))] for plan in plans)
    assert one == two == three
    assert len({plan.fingerprint() for plan in plans}) == 1


def test_draws_follow_from_seed_and_epoch_alone():
    def drawn(seed, epochs=3):
        torch.seed()
        found = windows(Plan(sampler("msc_vbs"), 3000, epochs, 32, 32, seed))
        return [[window.shape for window in epoch] for epoch in found]

    state = torch.get_rng_state()
    Plan(sampler("msc_vbs"), 3000, 3, 32, 32, 0)
    assert torch.equal(torch.get_rng_state(), state)
    first = drawn(0)
    assert first == drawn(0) == drawn(0, epochs=5)[:3]
    assert first != drawn(1) and first[0] != first[1]


def test_resolutions_are_drawn_uniformly():
    """Each of five about as often: within five standard deviations."""
    found = itertools.chain(*windows(Plan(sampler("msc_fbs"), 20_000, 4, 4, 4, 0)))
    counts = Counter(window.shape for window in found)
    assert len(counts) == 5 and sum(counts.values()) == 20_000
    assert all(abs(count - 4000) < 5 * math.sqrt(20_000 * 0.2 * 0.8) for count in counts.values())


@pytest.mark.parametrize("until", [0.3, 0.5, 1.0])
def test_resolutions_expand_until_their_epoch(until):
    recipe, epochs = sampler("msc_vbswc", until=until), 20
    factors = [recipe.factor(epoch, epochs) for epoch in range(epochs)]
    assert factors[0] == 0.5 and sorted(factors) == factors
    assert [epoch for epoch in range(epochs) if factors[epoch] == 1] == list(range(int(until * epochs), epochs))
    pools = [recipe.pool(epoch, epochs) for epoch in range(epochs)]
    assert pools[0] == [(8, 8), (12, 12), (16, 16), (20, 20)]
    assert until == 1 or pools[-1] == [(side, side) for side in (16, 24, 28, 36, 40)]
    assert Plan(recipe, 500, epochs, 10, 10, 0).shapes[0] == (8, 8)


@pytest.mark.slow
def test_the_updates_of_the_thesis_from_a_light_plan():
    """Tables 4.1 and 4.2: 1.00, 1.00, 0.77, and 0.66, 0.66, 0.63, 0.64; ImageNet, 600 epochs."""
    pool = {"smallest": 128, "largest": 320}

    def steps(name, batch_size, side, **settings):
        return Plan(SamplerRecipe(name=name, side=side, **settings), 1_281_167, 600, batch_size, 256, 0, 4).steps

    tracemalloc.start()
    one = steps("ssc_fbs", 1024, 224)
    assert steps("msc_fbs", 1024, 224, **pool) == one
    ratios = [steps("msc_vbs", 1024, 224, **pool) / one]
    for expansion in ("linear", "cosine", "polynomial", "multi_step"):
        ratios.append(steps("msc_vbswc", 2048, 160, **pool, expansion=expansion) / one)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ratios == pytest.approx([0.77, 0.66, 0.66, 0.63, 0.64], abs=0.0075)
    assert peak < 10e6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vbs"}, r"name='vbs' must be .* the nearest is"),
        ({"name": "msc_vbs"}, "smallest=None must be a number of pixels; name='msc_vbs' draws resolutions"),
        ({"name": "msc_vbs", **POOL, "smallest": 44}, "smallest=44 must be at most largest=40"),
        ({"name": "msc_vbs", **POOL, "smallest": (16, 44)}, r"smallest=\(16, 44\) must be at most largest=40"),
        ({"name": "msc_vbs", **POOL, "largest": 42}, "largest=42 must be a multiple of multiple=4"),
        ({"name": "msc_vbs", **POOL, "scales": 1}, "scales=1 must be at least 2"),
        ({"name": "msc_vbs", **POOL, "multiple": 0}, "multiple=0 must be at least 1"),
        ({"name": "msc_vbs", **POOL, "start": 0.5}, "start=0.5 must be left out; name='msc_vbs' does not read it"),
        ({"name": "ssc_fbs", "smallest": 16}, "smallest=16 must be left out; name='ssc_fbs' does not read it"),
        ({"name": "msc_vbswc", **POOL, "start": 1.25}, "start=1.25 must be above 0 and at most 1"),
        ({"name": "msc_vbswc", **POOL, "start": 0.0}, "start=0.0 must be above 0"),
        ({"name": "msc_vbswc", **POOL, "until": 1.5}, "until=1.5 must be above 0 and at most 1"),
        ({"name": "msc_vbswc", **POOL, "expansion": "polynomial", "power": -1.0}, "power=-1.0 must be above 0"),
        ({"name": "msc_vbswc", **POOL, "power": 3.0}, "power=3.0 must be left out; expansion='polynomial' alone"),
        ({"name": "msc_vbswc", **POOL, "stages": 3}, "stages=3 must be left out; expansion='multi_step' alone"),
        ({"side": 0}, "side=0 must be at least 1"),
    ],
)
def test_what_a_recipe_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplerRecipe(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"rows_per_pass": 0}, "rows_per_pass=0 must be at least 1"),
        ({"rows": 0}, "rows=0 must be at least 1, one for each process"),
        ({"rows": 2, "processes": 3}, "rows=2 must be at least 3, one for each process"),
        ({"sampler": SamplerRecipe()}, "side=None must be a number of pixels by now"),
    ],
)
def test_what_a_plan_refuses(settings, message):
    numbers = {"rows": 100, "epochs": 2, "batch_size": 10, "rows_per_pass": 10, "seed": 0}
    with pytest.raises(ValueError, match=message):
        Plan(**{"sampler": sampler("msc_vbs"), **numbers, **settings})
