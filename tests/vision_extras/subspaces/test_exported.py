# SPDX-License-Identifier: Apache-2.0
"""Levels in other formats: torch's own and ONNX."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hylora.randomness import generator
from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces import Bits, CompressibleSubspace, Sparsity, Width

IMAGES = torch.randn(3, 1, 9, 11, generator=torch.Generator().manual_seed(0))
BATCH = ({0: torch.export.Dim("batch")},)

LEVELS = [(Sparsity(), 0.5), (Bits(), 4), (Width(), 0.5)]


def small_network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def resnet(seed):
    return build_network(ModelRecipe(name="resnet8"), 1, 5, generator("weights", seed))


def exported(make, compression, level):
    """A level of a line that has seen images."""
    norm = "instance" if compression.shares_weights else "group"
    subspace = CompressibleSubspace.line(make(0), compression, other=make(1), norm=norm)
    subspace.position.activations = True
    subspace.train()(2 * IMAGES)
    return subspace.export(level).eval()


@pytest.mark.parametrize("make", [small_network, pytest.param(resnet, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("compression", "level"), LEVELS)
def test_torch_export_gives_the_same_logits(make, compression, level):
    network = exported(make, compression, level)
    program = torch.export.export(network, (IMAGES,), dynamic_shapes=BATCH).module()
    for images in (IMAGES, IMAGES[:2]):
        torch.testing.assert_close(program(images), network(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("compression", "level"), LEVELS)
def test_onnx_gives_the_same_logits(tmp_path, compression, level):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = exported(small_network, compression, level)
    torch.onnx.export(network, (IMAGES,), tmp_path / "level.onnx", dynamic_shapes=BATCH)
    session = runtime.InferenceSession(tmp_path / "level.onnx")
    for images in (IMAGES, IMAGES[:2]):
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(images).detach(), rtol=1e-4, atol=1e-5)
