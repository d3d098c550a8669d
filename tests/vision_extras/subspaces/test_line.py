# SPDX-License-Identifier: Apache-2.0
"""Lines in weight space against autograd by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vision_extras.subspaces.line import draw_lines
from vision_extras.subspaces.position import Position


def layer(seed):
    torch.manual_seed(seed)
    return nn.Conv2d(3, 5, 3)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_both_ends_get_their_share_of_the_gradient(alpha):
    first, second = layer(0), layer(1)
    one, other = first.weight.detach().clone(), second.weight.detach().clone()
    position, images = Position(alpha, 0.0), torch.randn(2, 3, 7, 6)
    draw_lines(first, position, {"weight": second.weight, "bias": second.bias})
    first(images).square().sum().backward()

    weight = (alpha * one + (1 - alpha) * other).requires_grad_()
    bias = alpha * first.parametrizations.bias.original0 + (1 - alpha) * first.parametrizations.bias.original1
    F.conv2d(images, weight, bias.detach()).square().sum().backward()
    ends = first.parametrizations.weight
    torch.testing.assert_close(ends.original0.grad, alpha * weight.grad)
    torch.testing.assert_close(ends.original1.grad, (1 - alpha) * weight.grad)
    assert torch.equal(ends.original0, one) and torch.equal(ends.original1, other)


def test_ends_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"weight has shape \(5, 2, 3, 3\) at one end and \(5, 3, 3, 3\)"):
        draw_lines(layer(0), Position(1.0, 0.0), {"weight": nn.Conv2d(2, 5, 3).weight})
