# SPDX-License-Identifier: Apache-2.0
"""Masks: as many of the smallest weights go as were asked for, and a weight that grows keeps its own."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from vision_extras.masks import Masks, gone, prunable, smallest
from vision_extras.pruning.criteria import magnitude


def by_sorting(scores, sparsity, scope):
    """The slow definition: sorted by score, and where that is equal by place."""
    places = [
        (float(value), number, index, name)
        for number, (name, score) in enumerate(scores.items())
        for index, value in enumerate(score.flatten())
    ]
    groups = [places] if scope == "global" else [[p for p in places if p[3] == name] for name in scores]
    chosen = {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    for group in groups:
        for _, _, index, name in sorted(group)[: int(Fraction(str(sparsity)) * len(group))]:
            chosen[name].view(-1)[index] = True
    return chosen


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.29, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_the_smallest_are_chosen(scope, sparsity, ties):
    draw = torch.Generator().manual_seed(0)
    scores = {"a": torch.rand(10, 10, generator=draw), "b": 5 * torch.rand(3, 7, 3, generator=draw)}
    if ties:
        scores = {name: score.round() for name, score in scores.items()}
    found, expected = smallest(scores, sparsity, scope), by_sorting(scores, sparsity, scope)
    for name in scores:
        assert torch.equal(found[name], expected[name]), name


def test_the_share_is_the_decimal_that_was_written():
    """0.29 * 100 is 28.999999999999996 in binary."""
    assert int(smallest({"a": torch.rand(100)}, 0.29, "global")["a"].sum()) == 29


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_shares_out_of_range_are_refused(sparsity):
    with pytest.raises(ValueError, match=r"sparsity=.* must be at least 0 and below 1"):
        smallest({"a": torch.rand(4)}, sparsity, "global")


def test_what_can_be_pruned_is_found_in_any_network():
    network = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    network[3].weight = network[0].weight
    network[4].weight.requires_grad_(False)
    assert list(prunable(network)) == ["0.weight", "2.weight"]
    assert torch.equal(magnitude(network)["2.weight"], network[2].weight.abs())


def covered(**weights):
    masks = Masks()
    masks.cover(weights)
    return masks, weights


def test_what_is_gone_is_zero_and_more_may_go():
    masks, weights = covered(**{"a.weight": torch.arange(1.0, 5.0), "b": torch.ones(2, 2)})
    assert masks.sparsity() == 0
    masks.remove({"a.weight": torch.tensor([True, False, False, False])})
    masks.remove({"a.weight": torch.tensor([False, True, False, False])})
    masks.apply(weights)
    assert weights["a.weight"].tolist() == [0, 0, 3, 4] and weights["b"].eq(1).all()
    assert masks.sparsity() == 0.25


def test_what_is_not_a_number_becomes_zero():
    masks, weights = covered(a=torch.tensor([float("nan"), 1.0]))
    masks.remove({"a": torch.tensor([True, False])})
    masks.apply(weights)
    assert weights["a"].tolist() == [0, 1]


def test_a_weight_that_grows_keeps_its_mask_in_the_corner():
    masks, _ = covered(a=torch.ones(2, 2))
    masks.remove({"a": torch.eye(2, dtype=torch.bool)})
    masks.cover({"a": torch.ones(3, 4), "b": torch.ones(2)})
    expected = torch.ones(3, 4, dtype=torch.bool)
    expected[0, 0] = expected[1, 1] = False
    assert torch.equal(masks["a"], expected) and masks["b"].all()
    with pytest.raises(ValueError, match="a has shape .* may grow, and not shrink"):
        masks.cover({"a": torch.ones(2, 4)})


def test_masks_are_part_of_the_state():
    masks, weights = covered(**{"a.weight": torch.arange(4.0)})
    masks.remove({"a.weight": torch.tensor([True, False, True, False])})
    loaded, _ = covered(**weights)
    loaded.load_state_dict(masks.state_dict())
    assert torch.equal(loaded["a.weight"], masks["a.weight"])


def test_gradients_that_are_not_there_are_passed_over():
    masks, _ = covered(a=torch.ones(2))
    masks.apply({"a": None})


def test_erdos_renyi_keeps_in_proportion_to_the_shape():
    draw = torch.Generator().manual_seed(0)
    shapes = {"small": (4, 3, 3, 3), "middle": (32, 16, 3, 3), "large": (64, 100)}
    scores = {name: torch.rand(shape, generator=draw) for name, shape in shapes.items()}
    kept = {name: 1 - chosen.float().mean().item() for name, chosen in smallest(scores, 0.8, "erk").items()}
    # What would keep more than it has stays whole, and the others share the rest.
    assert kept["small"] == 1
    ratio = (54 / (32 * 16 * 9)) / (164 / 6400)
    assert kept["middle"] / kept["large"] == pytest.approx(ratio, rel=0.01)
    total = sum(score.numel() for score in scores.values())
    assert sum(kept[name] * scores[name].numel() for name in scores) == pytest.approx(0.2 * total, abs=3)


def test_modules_can_be_kept():
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Linear(3, 2))
    assert list(prunable(network, ["first", "last"])) == ["1.0.weight"]
    assert list(prunable(network, ["1"])) == ["0.weight", "2.weight"]
    with pytest.raises(ValueError, match="keep='3' must name a module"):
        prunable(network, ["3"])
    with pytest.raises(ValueError, match="leaves no weight"):
        prunable(network, ["0", "1", "2"])


def test_a_pattern_leaves_what_it_does_not_divide():
    chosen = gone({"a": torch.rand(2, 3), "b": torch.rand(2, 8)}, "2:4")
    assert not chosen["a"].any() and chosen["b"].sum(1).tolist() == [4, 4]
    with pytest.raises(ValueError, match="divides the input channels of no weight"):
        gone({"a": torch.rand(2, 3)}, "2:4")
