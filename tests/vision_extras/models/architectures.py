# SPDX-License-Identifier: Apache-2.0
"""A tiny network of every architecture, with the least side that it takes and one between its multiples."""

from __future__ import annotations

from torch import nn

from vision_extras.models import ModelRecipe

__all__ = ["TINY", "own"]

_STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
_LAYER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _hub(model_type, **entries):
    return ModelRecipe(name="transformers", config={"model_type": model_type, **entries})


# Recipe, stride, multiple.
TINY = {
    "resnet8": (ModelRecipe(name="resnet8", width=0.5), 4, 1),
    "cpreresnet20": (ModelRecipe(name="cpreresnet20", width=0.5, stochastic_depth=0.1), 4, 1),
    "vgg11": (ModelRecipe(name="vgg11", width=0.125), 32, 1),
    "vgg11 with group norm": (ModelRecipe(name="vgg11", width=0.125, norm="group", dropout=0.1), 32, 1),
    "vgg19": (ModelRecipe(name="vgg19", width=0.125), 32, 1),
    "own": (ModelRecipe(name=f"{__name__}:own", config={"width": 4}), 2, 2),
    "resnet": (_hub("resnet", embedding_size=8, layer_type="basic", **_STAGES), 32, 1),
    "bit": (_hub("bit", embedding_size=8, num_groups=4, **_STAGES), 32, 1),
    "vit": (_hub("vit", image_size=32, patch_size=8, intermediate_size=32, **_LAYER), 8, 8),
    "deit": (_hub("deit", image_size=32, patch_size=8, intermediate_size=32, **_LAYER), 8, 8),
    "dinov2": (_hub("dinov2", image_size=42, patch_size=14, **_LAYER), 14, 14),
    "swin": (_hub("swin", image_size=32, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=3), 8, 1),
    "swinv2": (_hub("swinv2", image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4), 8, 1),
    "mobilenet_v1": (_hub("mobilenet_v1", depth_multiplier=0.25), 32, 1),
    "mobilenet_v2": (_hub("mobilenet_v2", depth_multiplier=0.25), 32, 1),
    "regnet": (_hub("regnet", embedding_size=8, groups_width=8, **_STAGES), 32, 1),
    "efficientnet": (_hub("efficientnet", width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320), 32, 1),
    "convnext": (_hub("convnext", **_STAGES), 32, 1),
}


class _Own(nn.Module):
    stride = multiple = 2

    def __init__(self, channels, classes, width):
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 2, stride=2)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.convolution(images).relu().mean((-2, -1)))


def own(channels, classes, width):
    """A factory of somebody's own."""
    return _Own(channels, classes, width)
