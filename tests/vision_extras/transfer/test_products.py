# SPDX-License-Identifier: Apache-2.0
"""Products of sparse matrices beside torch's convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vision_extras.masks import gone, prunable
from vision_extras.models import ModelRecipe, build_network
from vision_extras.transfer.products import SparseConvolution, SparseProducts

CASES = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "3x3 without padding": {"kernel_size": 3},
    "5x3, padded unevenly": {"kernel_size": (5, 3), "padding": (1, 2)},
    "1x1": {"kernel_size": 1, "bias": False},
    "1x1 with a stride": {"kernel_size": 1, "stride": 2},
}


def pruned(network, level):
    weights = prunable(network)
    with torch.no_grad():
        for name, away in gone({name: weight.abs() for name, weight in weights.items()}, level, "local").items():
            weights[name].masked_fill_(away, 0.0)
    return network


@pytest.mark.parametrize("case", CASES)
def test_a_product_is_the_convolution(case):
    convolution = pruned(nn.Conv2d(5, 7, **CASES[case]), 0.8).double()
    images = torch.rand(3, 5, 9, 6, dtype=torch.float64)
    found = SparseConvolution(convolution)(images)
    assert found.is_contiguous()
    assert torch.allclose(found, convolution(images), atol=1e-12)


def test_only_what_is_sparse_and_fits_is_taken():
    layers = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding="same"),
    )
    assert [*SparseProducts(pruned(layers, 0.95)).convolutions] == [layers[0]]
    some = pruned(nn.Sequential(nn.Conv2d(10, 10, 1), nn.Conv2d(10, 10, 3)), 0.9)
    assert [*SparseProducts(some).convolutions] == [some[0]]
    assert [*SparseProducts(some, least=0.9).convolutions] == [*some]


def test_a_network_gives_what_it_gave_and_is_left_as_it_was():
    network = pruned(build_network(ModelRecipe(name="resnet20"), 3, 5, torch.Generator()), 0.95).eval()
    images = torch.rand(2, 3, 11, 14)
    products = SparseProducts(network)
    assert len(products.convolutions) == 19 + 2 - 2  # 3x3 with a stride
    with torch.no_grad():
        plain = network(images)
        with products.applied():
            assert torch.allclose(network(images), plain, atol=1e-5)
            with torch.no_grad():
                network.stem[0].weight.zero_()
            assert torch.allclose(network(images), plain, atol=1e-5)
        assert not torch.allclose(network(images), plain, atol=1e-5)
    assert not any("forward" in vars(module) for module in network.modules())
