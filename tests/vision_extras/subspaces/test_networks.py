# SPDX-License-Identifier: Apache-2.0
"""Subspaces of every kind of network: all but its outer layers are compressed, and both ends of lines learn."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from tests.pages import page
from tests.vision_extras.models.architectures import TINY
from vision_extras.models import build_network
from vision_extras.subspaces import Bits, CompressibleSubspace, Sparsity, Width

PAGE = "docs/guides/image_models.md"
# Where images come in, and where logits come out.
OUTER = {
    "resnet8": {"stem.0", "head"},
    "cpreresnet20": {"stem.0", "head"},
    "vgg19": {"stages.0.0", "head"},
    "mobilenet_v2": {"model.mobilenet_v2.conv_stem.first_conv.convolution", "model.classifier"},
    "vit": {"model.vit.embeddings.patch_embeddings.projection", "model.classifier"},
    "deit": {"model.deit.embeddings.patch_embeddings.projection", "model.classifier"},
}
ROWS = [
    (set(re.findall(r"`(\w+)`", networks)), width)
    for networks, sparsity, width, bits in re.findall(
        r"^\| (.*) \| (yes) \| (yes|refused|perceptrons) \| (yes) \|$", page(PAGE), flags=re.MULTILINE
    )
]
LAYERS = (nn.Conv2d, nn.Linear)


@torch.no_grad()
def built(name, seed=0):
    draw = torch.Generator().manual_seed(seed)
    network = build_network(TINY[name][0], 3, 5, draw)
    for parameter in network.parameters():
        # Class tokens and biases begin at zero, and would keep gradients from others.
        parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return network


def subspace(name, kind):
    network = built(name)
    if kind == "point":
        return CompressibleSubspace.point(network, Sparsity())
    return CompressibleSubspace.line(network, Sparsity(), other=built(name, seed=1))


@pytest.mark.parametrize("name", OUTER)
@pytest.mark.parametrize("kind", ["line", "point"])
def test_every_layer_but_the_outer_ones_learns_at_every_level(name, kind):
    made = subspace(name, kind)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for level in (0.0, 0.37):
        made.zero_grad()
        F.cross_entropy(made.at_level(level)(images), torch.arange(3)).backward()
    for path, layer in made.network.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        zeros = int((layer.weight == 0).sum())
        assert zeros == (0 if path in OUTER[name] else int(0.37 * layer.weight.numel())), path
        if kind == "line":
            parametrization = layer.parametrizations.weight
            ends = [parametrization.original0, parametrization.original1]
        else:
            ends = [layer.parametrizations.weight.original if path not in OUTER[name] else layer.weight]
        assert all(end.grad is not None and end.grad.any() for end in ends), path


@pytest.mark.parametrize("name", OUTER)
@pytest.mark.parametrize("kind", ["line", "point"])
def test_what_is_exported_is_the_subspace_at_a_level_bit_for_bit(name, kind):
    made = subspace(name, kind)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # Batch norms get statistics of their own.
        made(images)
        made.eval()
        exported = made.export(0.63)
        assert not any(map(parametrize.is_parametrized, exported.modules()))
        assert {key: value.shape for key, value in exported.state_dict().items()} == {
            key: value.shape for key, value in built(name).state_dict().items()
        }
        assert torch.equal(exported(images), made.at_level(0.63)(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name != "own"])
@pytest.mark.parametrize("compression", [Sparsity(), Width(), Bits()], ids=lambda compression: compression.name)
def test_networks_can_be_compressed_as_the_page_says(name, compression):
    recipe, stride, _ = TINY[name]
    row = next(row for row in ROWS if recipe.name in row[0] or (recipe.config or {}).get("model_type") in row[0])
    narrows = compression.name == "width"
    network = built(name) if "group norm" not in name else built(name.split()[0])
    images = torch.rand(2, 3, 2 * stride, 2 * stride, generator=torch.Generator().manual_seed(0))

    def compressed():
        norm = "instance" if narrows else "group"
        made = CompressibleSubspace.line(network, compression, norm=norm).eval()
        for level in (compression.strongest, compression.weakest):
            with torch.no_grad():
                assert torch.equal(made.export(level)(images), made.at_level(level)(images))
        return made

    if narrows and row[1] == "refused":
        with pytest.raises((ValueError, RuntimeError)):
            compressed()
        return
    made, inputs = compressed(), {}
    for level in (compression.weakest, compression.strongest):
        plain = made.export(level)
        inputs[level] = sum(parameter.numel() for parameter in plain.parameters())
    if narrows:
        # At a quarter of all widths about a sixteenth of the weights stays.
        share = inputs[compression.strongest] / inputs[compression.weakest]
        assert (share < 0.3) == (row[1] == "yes"), share


def test_both_classifiers_of_a_distilled_transformer_are_kept():
    config = DeiTConfig(image_size=32, patch_size=8, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    network = DeiTForImageClassificationWithTeacher(copy.copy(config))
    made = CompressibleSubspace.point(network, Sparsity())
    kept = {
        name
        for name, module in made.network.named_modules()
        if isinstance(module, LAYERS) and not parametrize.is_parametrized(module)
    }
    assert kept == {"deit.embeddings.patch_embeddings.projection", "cls_classifier", "distillation_classifier"}
