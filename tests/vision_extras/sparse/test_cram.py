# SPDX-License-Identifier: Apache-2.0
"""Compression-aware updates are those of a loop written by hand."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hylora.training.moment import Moment
from vision_extras.masks import Masks, prunable
from vision_extras.sparse import CramRecipe
from vision_extras.sparse.cram import CompressionAware

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.randn(4, 5, 8, generator=DRAW, dtype=torch.float64)
LABELS = torch.randint(3, (4, 5), generator=DRAW)
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.2, momentum=0.9, weight_decay=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1),
}
UPDATES = [
    *itertools.product(["cram", "topk"], [True, False], [True, False]),
    ("csam", False, True),
    ("csam", False, False),
]


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)).double()


def loss_of(model, step):
    return F.cross_entropy(model(IMAGES[step]), LABELS[step])


def zeroed(values, share):
    """Weights of more than one dimension without the smallest share of them all; where they are gone."""
    flat = torch.cat([value.abs().flatten() for value in values if value.ndim > 1])
    bound = flat.sort().values[int(round(share * len(flat)))]
    gone = [value.abs() < bound if value.ndim > 1 else torch.zeros_like(value, dtype=torch.bool) for value in values]
    return [value.masked_fill(away, 0) for value, away in zip(values, gone, strict=True)], gone


def gradient_at(model, values, step, moves):
    """The gradient with parameters set to values; batch statistics move with it or do not."""
    other = copy.deepcopy(model).train()
    for parameter, value in zip(other.parameters(), values, strict=True):
        parameter.data = value.clone()
        parameter.grad = None
    loss_of(other, step).backward()
    if moves:
        for name, buffer in other.named_buffers():
            model.get_buffer(name).copy_(buffer)
    return [parameter.grad for parameter in other.parameters()]


def by_hand(model, optimizer, step, update, plus, masked, share, radius):
    theta = [parameter.detach().clone() for parameter in model.parameters()]
    first = None
    if update == "cram" or plus:
        first = gradient_at(model, theta, step, moves=True)
    point = theta
    if update == "cram":
        point = [value + radius * gradient for value, gradient in zip(theta, first, strict=True)]
    elif update == "csam":
        compressed, gone = zeroed(theta, share)
        ascent = gradient_at(model, compressed, step, moves=True)
        if masked:
            ascent = [gradient.masked_fill(away, 0) for gradient, away in zip(ascent, gone, strict=True)]
        norm = torch.sqrt(sum((gradient**2).sum() for gradient in ascent))
        point = [value + radius * gradient / (norm + 1e-12) for value, gradient in zip(theta, ascent, strict=True)]
    compressed, gone = zeroed(point, share)
    second = gradient_at(model, compressed, step, moves=update == "topk" and not plus)
    if masked:
        second = [gradient.masked_fill(away, 0) for gradient, away in zip(second, gone, strict=True)]
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = second[number] + first[number] if plus else second[number]
    optimizer.step()


def method_of(model, **settings):
    masks = nn.ModuleDict()
    return CompressionAware(model, partial(prunable, model), CramRecipe(**settings), masks), masks


def update_with(method, model, optimizer, step):
    """An update as the loop makes one; gives its loss and the weights that the optimizer stepped from."""
    moment = Moment(step, 4, 0)
    optimizer.zero_grad()
    method.begin(moment)

    def accumulate():
        loss = loss_of(model, step)
        loss.backward()
        return loss.detach()

    loss = method.gradients(accumulate)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    method.end(moment)
    return loss, before


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("update, plus, masked", UPDATES)
def test_updates_are_those_of_the_algorithm(update, plus, masked, optimizer):
    expected, found = network(), network()
    of_expected, of_found = (OPTIMIZERS[optimizer](model.parameters()) for model in (expected, found))
    method, _ = method_of(found, update=update, plus=plus, masked=masked, levels=(0.6,), radius=0.3)
    for step in range(4):
        before = [parameter.detach().clone() for parameter in found.parameters()]
        by_hand(expected, of_expected, step, update, plus, masked, 0.6, 0.3)
        _, stepped_from = update_with(method, found, of_found, step)
        assert all(map(torch.equal, before, stepped_from))
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-12, atol=1e-14)
    assert found[1].num_batches_tracked == 4


def test_one_level_is_drawn_in_each_update_whatever_the_process():
    model = network()
    method, _ = method_of(model, update="cram", levels=(0.5, "1:2", "0.2-0.4"))
    drawn = []
    for step in range(60):
        method.begin(Moment(step, 60, 7))
        drawn.append(method._level)
        method.begin(Moment(step, 60, 7))
        assert method._level == drawn[-1]
    shares = {level for level in drawn if level not in (0.5, "1:2")}
    assert {0.5, "1:2"} < {*drawn} and len(shares) > 5 and all(0.2 <= share <= 0.4 for share in shares)


def test_some_updates_are_ordinary():
    model = network()
    optimizer, calls = torch.optim.SGD(model.parameters(), lr=0.1), []
    method, _ = method_of(model, update="cram", plain=0.5)
    for step in range(40):
        method.begin(Moment(step, 40, 0))
        calls.append(0)

        def accumulate():
            calls[-1] += 1
            loss = loss_of(model, 0)
            loss.backward()
            return loss.detach()

        method.gradients(accumulate)
        optimizer.step()
    assert {1, 2} == {*calls} and 10 < calls.count(1) < 30


def test_masks_are_kept_for_as_many_uses_of_their_level():
    model = network()
    method, masks = method_of(model, update="cram", levels=(0.5, 0.75), mask_every=3, radius=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    seen = {"0/5": [], "0/75": []}
    for step in range(24):
        moment = Moment(step, 24, 0)
        optimizer.zero_grad()
        method.begin(moment)

        def accumulate(step=step):
            loss = loss_of(model, step % 4)
            loss.backward()
            return loss.detach()

        method.gradients(accumulate)
        optimizer.step()
        method.end(moment)
        key = str(method._level).replace(".", "/")
        seen[key].append(torch.cat([mask.flatten() for mask in masks[key].buffers()]))
    for key, share in (("0/5", 0.5), ("0/75", 0.75)):
        runs = [seen[key][first : first + 3] for first in range(0, len(seen[key]), 3)]
        assert all(torch.equal(mask, run[0]) for run in runs for mask in run)
        assert any(not torch.equal(one[0], other[0]) for one, other in itertools.pairwise(runs))
        assert all(abs(1 - run[0].double().mean() - share) < 0.02 for run in runs)
    assert isinstance(masks["0/5"], Masks) and sum(method.state()["uses"].values()) == 24


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"levels": ()}, r"levels=\(\) must have one"),
        ({"levels": (1.0,)}, "sparsity=1.0 must be"),
        ({"levels": ("4bit",), "mask_every": 2}, "mask_every=2 keeps masks"),
        ({"update": "csam"}, "update='csam' takes no pass"),
        ({"radius": -1.0}, "radius=-1.0 must be at least 0"),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CramRecipe(**{"update": "cram", **settings})
