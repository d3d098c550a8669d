# SPDX-License-Identifier: Apache-2.0
"""Optimizers from recipes, and their state as named tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hylora.training.optimizer import build_optimizer as build_from_groups
from hylora.training.optimizer import (
    carried_state,
    decay_matrices,
    load_optimizer_state,
    optimizer_state,
    parameter_names,
)
from hylora.training.recipe import OptimizerRecipe, RecipeError


def build_optimizer(model, recipe):
    return build_from_groups([{"params": [p for p in model.parameters() if p.requires_grad]}], recipe)


def state_of(optimizer, model):
    return optimizer_state(optimizer, parameter_names(optimizer, model))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    return model


def update(model, optimizer, seed):
    torch.manual_seed(seed)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("recipe", [{"name": "adamw"}, {"name": "sgd"}, {"name": "sgd", "momentum": 0.9}], ids=str)
def test_state_goes_to_tensors_and_back(recipe):
    recipe = OptimizerRecipe(**recipe, lr=0.1)
    model = network()
    optimizer = build_optimizer(model, recipe)
    update(model, optimizer, 1)
    tensors, scalars = state_of(optimizer, model)
    again = network()
    again.load_state_dict(model.state_dict())
    other = build_optimizer(again, recipe)
    # On the CPU the tensors are the optimizer's own; a file would not be.
    load_optimizer_state(other, again, {name: value.clone() for name, value in tensors.items()}, scalars)
    for one, two in ((model, optimizer), (again, other)):
        update(one, two, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_names_tell_whose_state_it_is():
    model = network()
    optimizer = build_optimizer(model, OptimizerRecipe(lr=0.1))
    assert state_of(optimizer, model) == ({}, {})
    update(model, optimizer, 1)
    tensors, _ = state_of(optimizer, model)
    assert set(tensors) == {
        f"{name}::{entry}"
        for name in ("0.weight", "1.weight", "1.bias")
        for entry in ("step", "exp_avg", "exp_avg_sq")
    }


def test_state_of_other_parameters_is_refused():
    model = network()
    optimizer = build_optimizer(model, OptimizerRecipe(lr=0.1))
    with pytest.raises(ValueError, match=r"'0\.bias', which is not trained"):
        load_optimizer_state(optimizer, model, {"0.bias::exp_avg": torch.zeros(4)}, {})


def test_state_is_carried_where_a_parameter_stays_or_grows():
    """What grew has its state in the leading corner, and zeros beside it; what shrank or is gone loses it."""
    model = network()
    optimizer = build_optimizer(model, OptimizerRecipe(lr=0.1))
    update(model, optimizer, 1)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    tensors, scalars = state_of(optimizer, model)
    before = {name: value.clone() for name, value in tensors.items()}
    outputs, inputs = shapes["1.weight"]
    grown = nn.Sequential(nn.Linear(2, 4), nn.Linear(inputs + 1, outputs + 2), nn.Linear(5, 2))
    tensors, _ = carried_state(grown, tensors, scalars, shapes)
    assert {name.split("::")[0] for name in tensors} == {"1.weight", "1.bias"}
    moved = tensors["1.weight::exp_avg"]
    assert moved.shape == (outputs + 2, inputs + 1)
    assert torch.equal(moved[:outputs, :inputs], before["1.weight::exp_avg"])
    assert not moved[outputs:].any() and not moved[:, inputs:].any()
    again = build_optimizer(grown, OptimizerRecipe(lr=0.1))
    load_optimizer_state(again, grown, tensors, {})
    assert torch.equal(again.state[grown[1].weight]["exp_avg"], moved)


def test_packed_state_of_a_parameter_that_grew_is_left_behind():
    """8-bit optimizers have a byte for each element, and a scale for each block of them."""
    shapes = {name: parameter.shape for name, parameter in network().named_parameters()}
    packed = {
        "1.weight::state1": torch.ones(shapes["1.weight"], dtype=torch.uint8),
        "1.weight::absmax1": torch.ones(3),
    }
    plain = {"1.bias::state1": torch.ones(shapes["1.bias"]), "1.bias::step": torch.tensor(2.0)}
    outputs, inputs = shapes["1.weight"]
    grown = nn.Sequential(nn.Linear(2, 4), nn.Linear(inputs, outputs + 2))
    tensors, scalars = carried_state(grown, packed | plain, {"1.weight::step": 2}, shapes)
    assert tensors.keys() == plain.keys() and not scalars
    stays = nn.Sequential(nn.Linear(2, 4), nn.Linear(inputs, outputs))
    tensors, scalars = carried_state(stays, packed | plain, {"1.weight::step": 2}, shapes)
    assert tensors.keys() == (packed | plain).keys() and scalars == {"1.weight::step": 2}


def test_decay_spares_norms_and_biases():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = build_from_groups(decay_matrices(model, 0.5), OptimizerRecipe(lr=0.1, weight_decay=0.5))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.5,
        "2.bias": 0.0,
    }


def test_groups_keep_a_rate_of_their_own():
    model = network()
    groups = [{"params": [model[0].weight], "lr": 0.5}, {"params": [model[1].weight]}, {"params": []}]
    optimizer = build_from_groups(groups, OptimizerRecipe(lr=0.1))
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.5, 0.1]


def test_nothing_to_train_is_refused():
    with pytest.raises(RecipeError, match="no parameter is trainable"):
        build_optimizer(network().requires_grad_(False), OptimizerRecipe(lr=0.1))


def test_eight_bit_needs_its_package(monkeypatch):
    monkeypatch.setattr("hylora.training.optimizer.importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"adamw_8bit.*hylora\[optim\]"):
        build_optimizer(network(), OptimizerRecipe(name="adamw_8bit", lr=0.1))


def test_eight_bit_needs_a_gpu(monkeypatch):
    monkeypatch.setattr("hylora.training.optimizer.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RecipeError, match="adamw_8bit.*CUDA"):
        build_optimizer(network(), OptimizerRecipe(name="adamw_8bit", lr=0.1))
