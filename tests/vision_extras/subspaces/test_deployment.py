# SPDX-License-Identifier: Apache-2.0
"""Changing the level of a network in use."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.nn.utils.parametrize import ParametrizationList

from hylora.randomness import generator
from tests.outcomes import assert_same
from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces import Bits, CompressibleSubspace, Sparsity, Width
from vision_extras.subspaces.deployment import Deployed

IMAGES = torch.randn(3, 1, 9, 11, generator=torch.Generator().manual_seed(0))
MIDDLE = {"sparsity": 0.5, "bits": 5, "width": 0.6}


def network(seed):
    return build_network(ModelRecipe(name="resnet8"), 1, 5, generator("weights", seed))


@pytest.fixture(params=itertools.product(("line", "point"), (Sparsity(), Bits(), Width())))
def subspace(request):
    kind, compression = request.param
    norm = "instance" if compression.shares_weights else "group"
    if kind == "line":
        made = CompressibleSubspace.line(network(0), compression, other=network(1), norm=norm)
    else:
        made = CompressibleSubspace.point(network(0), compression, norm=norm)
    made.position.activations = True
    # So that what layers are given has been seen.
    made.train()(2 * IMAGES)
    return made.eval()


def test_a_level_is_what_is_exported_there_whenever_it_is_gone_to(subspace):
    compression = subspace.compression
    levels = (compression.strongest, MIDDLE[compression.name], compression.weakest)
    expected = {level: subspace.export(level)(IMAGES) for level in levels}
    deployed = Deployed(subspace)
    assert deployed.level == compression.weakest
    weights = {name: value.data_ptr() for name, value in deployed.network.named_parameters()}
    for level in (*levels, *levels):
        deployed.switch(level)
        logits = deployed(IMAGES)
        assert deployed.level == level and torch.equal(logits, expected[level]) and not logits.requires_grad
    assert {name: value.data_ptr() for name, value in deployed.network.named_parameters()} == weights
    assert len({tuple(logits.flatten().tolist()) for logits in expected.values()}) == 3


def test_the_subspace_stays_as_it_is_and_where(subspace):
    subspace.at_level(MIDDLE[subspace.compression.name])
    before = copy.deepcopy(subspace.state_dict())
    Deployed(subspace).switch(subspace.compression.strongest)
    assert_same(subspace.state_dict(), before)
    assert torch.equal(subspace(IMAGES), subspace.export(subspace.position.level)(IMAGES))


def test_nothing_is_computed_in_a_pass_or_kept_twice(subspace, monkeypatch):
    calls, forward = [], ParametrizationList.forward
    monkeypatch.setattr(ParametrizationList, "forward", lambda self: calls.append(1) or forward(self))
    deployed = Deployed(subspace)
    computed = len(calls)
    deployed(IMAGES)
    lists = [module for module in subspace.modules() if isinstance(module, ParametrizationList)]
    assert len(calls) == computed >= len(lists)
    own = {value.data_ptr(): value.numel() for value in deployed.parameters()}
    stored = {value.data_ptr(): value.numel() for value in subspace.parameters()}
    plain = sum(value.numel() for value in network(0).parameters())
    assert sum(count for key, count in own.items() if key not in stored) <= plain


def test_a_level_that_was_not_trained_changes_nothing(subspace):
    deployed = Deployed(subspace)
    before = deployed(IMAGES)
    with pytest.raises(ValueError, match="level=9 must be .*, the levels of "):
        deployed.switch(9)
    assert deployed.level == subspace.compression.weakest and torch.equal(deployed(IMAGES), before)
