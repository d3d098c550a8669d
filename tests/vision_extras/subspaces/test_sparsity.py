# SPDX-License-Identifier: Apache-2.0
"""TopK: exact counts, the very weights of a full sort, and masked gradients."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from vision_extras.subspaces import Sparsity
from vision_extras.subspaces.position import Position
from vision_extras.subspaces.sparsity import TopK


def top_k(weight, level):
    """The definition: in a stable order of magnitude, the first go."""
    order = weight.abs().flatten().argsort(stable=True)
    kept = torch.ones(weight.numel())
    kept[order[: math.floor(Fraction(str(level)) * weight.numel())]] = 0
    return weight * kept.view_as(weight)


@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 3, 3, 3), (1, 1)])
@pytest.mark.parametrize("level", [0.0, 0.1, 0.29, 0.5, 0.975, 0.995])
def test_it_is_the_full_sort(shape, level):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference = weight.detach().clone().requires_grad_()
    gradient = torch.randn(shape)
    sparse, expected = TopK(Position(1 - level, level))(weight), top_k(reference, level)
    sparse.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(sparse, expected) and torch.equal(weight.grad, reference.grad)
    assert int((sparse == 0).sum()) == math.floor(Fraction(str(level)) * weight.numel())


def test_of_equal_weights_the_first_go():
    weight = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])
    assert TopK(Position(0.4, 0.6))(weight).tolist() == [0, 0, 2, 0, -1]


def test_gamma_is_one_minus_alpha_both_ways():
    sparsity = Sparsity()
    for level in (0.0, 0.1, 0.7, 0.9, 0.975):
        assert sparsity.level(sparsity.alpha(level)) == level
        assert sparsity.alpha(level) == pytest.approx(1 - level)


@pytest.mark.parametrize(("weakest", "strongest"), [(-0.1, 0.5), (0.0, 1.0), (0.9, 0.5)])
def test_ranges_that_make_no_sense_are_refused(weakest, strongest):
    with pytest.raises(ValueError, match=f"weakest={weakest}.*must be shares of the weights that go"):
        Sparsity(weakest, strongest)


def test_levels_that_were_not_trained_are_refused():
    with pytest.raises(ValueError, match="level=0.99 must be from 0.0 to 0.975"):
        Sparsity().check_level(0.99)
