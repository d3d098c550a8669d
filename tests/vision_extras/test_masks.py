# SPDX-License-Identifier: Apache-2.0
"""Masks: the smallest weights go, as many as asked for, and none returns."""

from __future__ import annotations

import pytest
import torch

from vision_extras.pruning import Masks


def covered(**weights):
    masks = Masks()
    masks.cover(weights)
    return masks, weights


def pruned(masks, weights):
    return {name: int((~masks[name]).sum()) for name in weights}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99])
def test_the_smallest_of_each_tensor_go(sparsity):
    torch.manual_seed(0)
    masks, weights = covered(**{"a.weight": torch.randn(10, 10), "b.weight": 100 * torch.randn(4, 5)})
    masks.prune(weights, sparsity)
    for name, weight in weights.items():
        gone = weight[~masks[name]].abs()
        assert len(gone) == int(sparsity * weight.numel())
        assert not len(gone) or gone.max() < weight[masks[name]].abs().min()


def test_what_is_gone_stays_gone_and_counts():
    torch.manual_seed(0)
    masks, weights = covered(a=torch.randn(100))
    masks.prune(weights, 0.5)
    before = masks["a"].clone()
    weights["a"][~before] = 100.0  # momentum could do that
    weights["a"][before.nonzero()[:3]] = 0.0  # and this
    masks.prune(weights, 0.4)
    assert torch.equal(masks["a"], before)
    masks.prune(weights, 0.53)
    assert int(masks["a"].sum()) == 47 and not (masks["a"] & ~before).any()
    masks.apply(weights)
    assert (weights["a"][~masks["a"]] == 0).all() and (weights["a"][masks["a"]] != 0).all()


def test_a_weight_that_comes_later_gets_a_mask_of_its_own():
    masks, weights = covered(a=torch.arange(4.0))
    masks.prune(weights, 0.5)
    masks.cover({**weights, "b": torch.ones(2)})
    assert pruned(masks, ("a", "b")) == {"a": 2, "b": 0}


def test_masks_are_part_of_the_state():
    masks, weights = covered(**{"a.weight": torch.arange(4.0)})
    masks.prune(weights, 0.5)
    loaded, _ = covered(**weights)
    loaded.load_state_dict(masks.state_dict())
    assert torch.equal(loaded["a.weight"], masks["a.weight"])


def test_gradients_that_are_not_there_are_passed_over():
    masks, weights = covered(a=torch.ones(2))
    masks.apply({"a": None})
