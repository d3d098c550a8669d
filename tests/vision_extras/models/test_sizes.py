# SPDX-License-Identifier: Apache-2.0
"""The networks of chapter 3 are as large as its tables say."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces.compression import compressible

# Tables 3.2, 3.4 and 3.5: megabytes of weights without norms and biases, and millions of multiplications. The thesis
# counts one for each number that is averaged before the classifier too, which has 1,000 classes but on CIFAR.
TABLES = {
    "cpreresnet20": (10, 32, 0.87, 33.75, 256 * 8 * 8),
    "resnet18": (1000, 224, 46.72, 1814.10, 512 * 7 * 7),
    # Its VGG19 classifies each of 7x7 positions and averages logits. Ours classifies the mean: the same function, 48
    # passes through the classifier cheaper.
    "vgg19": (1000, 224, 82.12, 19533.52, 48 * 512 * 1000),
}


@pytest.mark.parametrize("name", TABLES)
def test_networks_take_what_the_tables_of_chapter_3_say(name):
    classes, side, megabytes, millions, besides = TABLES[name]
    network = build_network(ModelRecipe(name=name), 3, classes, None).eval()
    weights = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim > 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, side, side, device="meta"))
    assert f"{4 * weights / 1e6:.2f}" == f"{megabytes:.2f}"
    assert f"{(counter.get_total_flops() / 2 + besides) / 1e6:.2f}" == f"{millions:.2f}"


@pytest.mark.parametrize(("name", "share"), [("cpreresnet20", 96.15), ("resnet18", 93.15), ("vgg19", 95.06)])
def test_with_the_first_and_the_last_layer_kept_as_many_weights_go_as_table_3_5_says(name, share):
    """Where 97.5 % of the weights of each other layer go."""
    network = build_network(ModelRecipe(name=name), 3, TABLES[name][0], None)
    weights = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim > 1)
    gone = sum(int(0.975 * layer.weight.numel()) for layer in compressible(network, None).values())
    assert f"{100 * gone / weights:.2f}" == f"{share:.2f}"
