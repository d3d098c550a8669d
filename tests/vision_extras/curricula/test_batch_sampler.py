# SPDX-License-Identifier: Apache-2.0
"""The batch sampler for other loops: the plan's updates, dealt by torch and by Accelerate."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from hylora.training.feed import RowFeed, Share
from hylora.training.moment import Moment
from tests.processes import launch
from vision_extras.curricula import MultiscaleBatchSampler, MultiscaleDataset, Plan, SamplerRecipe

POOL = {"side": 28, "smallest": 16, "largest": 40, "multiple": 4}
RECIPES = {
    "ssc_fbs": SamplerRecipe(side=28),
    "msc_fbs": SamplerRecipe(name="msc_fbs", **POOL),
    "msc_vbs": SamplerRecipe(name="msc_vbs", **POOL),
    "msc_vbswc": SamplerRecipe(name="msc_vbswc", **POOL),
    "per rank": SamplerRecipe(name="msc_vbs", **POOL, shape_per_rank=True),
}
NUMBERS = {"images": 211, "epochs": 4, "batch_size": 20, "seed": 7}


def make(name="msc_vbswc", processes=1, **numbers):
    return MultiscaleBatchSampler(RECIPES[name], **{**NUMBERS, **numbers}, processes=processes)


def weights(batches):
    """By image."""
    seen = Counter()
    for batch in batches:
        for item in batch:
            seen[item.index] += item.weight
    return seen


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_every_image_once_by_weight(name, processes):
    sampler, orders = make(name, processes), []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) and len(batches) % processes == 0
        assert weights(batches) == Counter(dict.fromkeys(range(211), 1.0))
        for first in range(0, len(batches), processes):
            group = batches[first : first + processes]
            shapes = [{(item.height, item.width) for item in batch} for batch in group]
            assert all(len(own) == 1 for own in shapes)
            if name != "per rank":
                assert len({len(batch) for batch in group}) == 1 and len(set.union(*shapes)) == 1
            filled = [sum(item.weight == 0 for item in batch) for batch in group]
            assert all(count <= 1 for count in filled) and sum(filled) < processes
        orders.append([item.index for batch in batches for item in batch])
    assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_the_batches_are_those_of_the_loop(name, processes):
    """Update by update and process by process, the images and resolutions that the loop's own feed gives."""
    plan = Plan(RECIPES[name], 211, 4, 20, 20, 7, processes)
    feeds = [
        RowFeed(range(211), lambda rows, draws, shape: (rows, shape), plan.window, Share(rank, processes))
        for rank in range(processes)
    ]
    sampler = make(name, processes)
    for epoch in range(4):
        expected = []
        for step in range(plan.first_step(epoch), plan.first_step(epoch + 1)):
            passes = [feed.window(Moment(step, plan.steps, 7)) for feed in feeds]
            expected += [batch for round_ in zip(*passes, strict=True) for batch in round_]
        sampler.set_epoch(epoch)
        found = [([item.index for item in batch if item.weight], batch[0][:2]) for batch in sampler]
        assert found == expected


def test_seeds_differ():
    assert list(make(seed=1)) == list(make(seed=1)) != list(make(seed=2))


@pytest.mark.parametrize("processes", [1, 2])
def test_it_goes_on_in_the_middle_of_an_epoch(processes):
    sampler = make(processes=processes)
    sampler.set_epoch(2)
    whole = list(sampler)
    for given in range(len(whole) // processes + 1):
        stopped = make(processes=processes)
        stopped.set_epoch(2)
        batches = iter(stopped)
        before = [next(batches) for _ in range(given * processes)]
        resumed = make(processes=processes)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert before + list(resumed) == whole
        assert list(resumed) == whole == list(stopped)  # and from the start when it is asked again
        assert len(resumed) == len(whole)


def test_an_epoch_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="epoch=4 must be at least 0 and below epochs=4"):
        make().set_epoch(4)


@pytest.fixture(scope="module")
def images():
    return [(torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(n)), n) for n in range(211)]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_have_the_resolution_of_their_batch(images, workers):
    sampler = make()
    loader = DataLoader(MultiscaleDataset(images), batch_sampler=sampler, num_workers=workers)
    assert len(loader) == len(sampler)
    for batch, items in zip(loader, make(), strict=True):
        assert batch["images"].shape == (len(items), 1, items[0].height, items[0].width)
        assert batch["labels"].tolist() == [item.index for item in items]
        assert batch["weights"].tolist() == [item.weight for item in items]
        if items[0].height == 28:
            assert torch.equal(batch["images"], torch.stack([images[item.index][0] for item in items]))


# Accelerate


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_accelerates_shards_lose_nothing(name, processes, even):
    sampler = make(name, processes)
    dealt = [list(BatchSamplerShard(sampler, processes, rank, even_batches=even)) for rank in range(processes)]
    assert {len(own) for own in dealt} == {len(sampler) // processes}
    assert weights(batch for own in dealt for batch in own) == Counter(dict.fromkeys(range(211), 1.0))
    if name != "per rank":
        for group in zip(*dealt, strict=True):
            assert len({(len(batch), batch[0].height, batch[0].width) for batch in group}) == 1


@pytest.mark.parametrize("processes", [1, 3])
def test_accelerates_loaders_begin_a_new_epoch_by_themselves(images, processes):
    """And go on in the middle of one."""

    def loader(rank):
        return prepare_data_loader(
            DataLoader(MultiscaleDataset(images), batch_sampler=make(processes=processes)),
            num_processes=processes,
            process_index=rank,
        )

    found, resumed = [], []
    for rank in range(processes):
        own = loader(rank)
        assert len(own) == len(make(processes=processes)) // processes
        found.append([[batch["labels"].tolist() for batch in own] for epoch in range(3)])
        later = loader(rank)
        sampler = later.batch_sampler if processes == 1 else later.batch_sampler.batch_sampler
        sampler.load_state_dict({"epoch": 2, "batches": 3})
        later.set_epoch(2)
        resumed.append([batch["labels"].tolist() for batch in later])
        skipping = loader(rank)
        skipping.set_epoch(2)
        assert [batch["labels"].tolist() for batch in skip_first_batches(skipping, 3)] == resumed[-1]
    for epoch in range(3):
        expected = make(processes=processes)
        expected.set_epoch(epoch)
        labels = [[item.index for item in batch] for batch in expected]
        assert [own[epoch] for own in found] == [labels[rank::processes] for rank in range(processes)]
    assert resumed == [own[2][3:] for own in found]


PROGRAM = """
import json, sys, torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from vision_extras.curricula import MultiscaleBatchSampler, MultiscaleDataset, SamplerRecipe

accelerator = Accelerator(cpu=True)
images = [(torch.full((1, 28, 28), 1.0), n) for n in range(211)]
recipe = SamplerRecipe(name="msc_vbswc", side=28, smallest=16, largest=40, multiple=4)
sampler = MultiscaleBatchSampler(recipe, 211, epochs=2, batch_size=20, seed=7, processes=accelerator.num_processes)
loader = accelerator.prepare(DataLoader(MultiscaleDataset(images), batch_sampler=sampler, num_workers=1))
found = []
for epoch in range(2):
    seen = torch.zeros(211)
    for batch in loader:
        shape = torch.tensor(batch["images"].shape)
        seen.index_add_(0, batch["labels"], batch["weights"].float())
        assert (accelerator.gather(shape[None]) == shape).all(), "a process has another shape"
    found.append(accelerator.reduce(seen).tolist())
if accelerator.is_main_process:
    json.dump(found, open(sys.argv[1], "w"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_real_processes_see_every_image_once(tmp_path, processes):
    (tmp_path / "program.py").write_text(PROGRAM)
    launch(processes, tmp_path / "program.py", tmp_path / "found.json", folder=tmp_path)
    assert json.loads((tmp_path / "found.json").read_text()) == [[1.0] * 211] * 2
