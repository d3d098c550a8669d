# SPDX-License-Identifier: Apache-2.0
"""The loss and the optimizer's state under FSDP2, on a CPU mesh of one process."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from hylora.adapters import HyLoraConfig, add_adapter
from hylora.language.task import CausalLoss
from hylora.training.optimizer import build_optimizer, load_optimizer_state, parameter_names
from hylora.training.parallelism import fsdp_plugin
from hylora.training.processes import like, reshard, whole
from hylora.training.recipe import OptimizerRecipe
from hylora.training.state import take
from tests.architectures.kernels import boundary_kernels
from tests.tiny import tiny_bamba


@pytest.fixture
def mesh():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def adapted():
    torch.manual_seed(0)
    model = tiny_bamba().train()
    return CausalLoss(add_adapter(model, HyLoraConfig.for_model(model, r=2, lora_alpha=4)), slice_length=8)


@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients_are_those_of_the_whole_model(mesh, packed):
    """Packed rows are tried on a few tokens first, in the same forward pass."""
    model, sharded = adapted(), adapted()
    for layer in sharded.model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    ids = torch.arange(40).reshape(2, 20)
    inputs = {"position_ids": ids % 10} if packed else {}
    with boundary_kernels(model.model):
        expected, _ = model(ids, ids, **inputs)
        loss, _ = sharded(ids, ids, **inputs)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        expected.backward()
    reference = dict(model.named_parameters())
    for name, parameter in sharded.named_parameters():
        if parameter.requires_grad:
            assert isinstance(parameter.grad, DTensor)
            torch.testing.assert_close(whole(parameter.grad), reference[name].grad, msg=name)


def test_losses_and_gradients_are_not_rounded_by_mixed_precision(mesh, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    model, sharded = adapted(), adapted()
    fully_shard(sharded, mesh=mesh, mp_policy=fsdp_plugin("bf16").mixed_precision_policy)
    ids = torch.arange(40).reshape(2, 20)
    loss, _ = sharded(ids, ids)
    loss.backward()
    assert loss.dtype == torch.float32 and loss != loss.bfloat16()
    torch.testing.assert_close(loss, model(ids, ids)[0], rtol=5e-3, atol=0)
    assert {each.grad.dtype for each in sharded.parameters() if each.requires_grad} == {torch.float32}


def test_a_pass_without_a_backward_one_leaves_shards(mesh):
    """Otherwise what follows an evaluation, such as a checkpoint, finds parameters that are not the optimizer's."""
    model = fully_shard(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), mesh=mesh)
    with torch.no_grad():
        model(torch.ones(5, 3))
    assert not isinstance(model[0].weight, DTensor)
    reshard(model)
    assert isinstance(model[0].weight, DTensor)


def test_what_modules_share_they_share_again():
    torch.manual_seed(0)
    model = CausalLoss(tiny_bamba(tie_word_embeddings=True), slice_length=8)
    model.to("meta")
    names = ("model.model.embed_tokens.weight", "model.lm_head.weight")
    assert model.get_parameter(names[0]) is not model.get_parameter(names[1])
    model.tie_weights()
    assert model.get_parameter(names[0]) is model.get_parameter(names[1])


def test_state_is_saved_whole_and_sharded_again(mesh):
    model = fully_shard(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), mesh=mesh)
    optimizer = build_optimizer([{"params": list(model.parameters())}], OptimizerRecipe(lr=0.1))
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    taken, scalars = take(model, optimizer, parameter_names(optimizer, model), keep=True)
    tensors = taken["optimizer"]
    assert tensors and not any(isinstance(value, DTensor) for value in tensors.values())
    again = build_optimizer([{"params": list(model.parameters())}], OptimizerRecipe(lr=0.1))
    load_optimizer_state(again, model, tensors, scalars)
    moment = again.state[model[0].weight]["exp_avg"]
    assert isinstance(moment, DTensor) and moment.placements == (Shard(0),)
    assert torch.equal(whole(moment), tensors["0.weight::exp_avg"])


def test_whole_tensors_take_the_sharding_of_a_reference(mesh):
    model = fully_shard(nn.Sequential(nn.Linear(3, 4)), mesh=mesh)
    value = torch.arange(4.0)
    assert isinstance(like(value, model[0].bias), DTensor)
    assert torch.equal(whole(like(value, model[0].bias)), value)
    assert like(value, torch.zeros(4)) is value
