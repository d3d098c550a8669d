# SPDX-License-Identifier: Apache-2.0
"""Small forms of tensors: values on a grid by hand, sizes by hand, and every bit had back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from tests.outcomes import assert_same
from vision_extras.masks import gone
from vision_extras.models import ModelRecipe, build_network, load_network, save_network
from vision_extras.models.grid import Grid, grid_of
from vision_extras.models.packed import pack, packed_size, unpack
from vision_extras.models.weights import write_weights

BITS = range(3, 9)
SHAPES = [(), (1,), (7,), (5, 3), (4, 3, 3, 3), (1, 13)]


def weights(shape, shift=0.0, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + shift


def by_hand(x, bits):
    """One number after another, from equations 1 to 3 of Jacob et al.; integers, and what they stand for."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    numbers = [np.float32(number) for number in x.flatten().tolist()]
    low, high = min([*numbers, np.float32(0)]), max([*numbers, np.float32(0)])
    scale = (high - low) / np.float32(highest - lowest)
    if scale == 0:
        return [], numbers
    zero = min(max(round(lowest - low / scale), lowest), highest)
    integers = [min(max(round(number / scale) + zero, lowest), highest) for number in numbers]
    return integers, [np.float32(integer - zero) * scale for integer in integers]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_values_on_a_grid_are_those_by_hand(shape, shift):
    x = weights(shape, shift)
    for bits in BITS:
        grid = grid_of(*x.aminmax(), bits)
        integers, values = by_hand(x, bits)
        assert grid.integers(x).flatten().tolist() == integers
        assert grid.values(grid.integers(x)).flatten().tolist() == values
        assert len({*integers}) <= 2**bits


@pytest.mark.parametrize("low, high", [(-1.0, 2.0), (0.3, 0.7), (-0.7, -0.3), (-1e-3, 1e3), (0.0, 1.0)])
def test_zero_is_a_value_and_none_is_further_than_half_a_step(low, high):
    for bits in BITS:
        grid = grid_of(torch.tensor(low), torch.tensor(high), bits)
        assert grid.integers(torch.zeros(1)) == grid.zero and grid.values(grid.zero) == 0
        inside = torch.linspace(min(low, 0), max(high, 0), 101)
        away = (grid.values(grid.integers(inside)) - inside).abs()
        # At an end the grid may be off by the half step by which its zero was moved.
        assert away.max() <= grid.scale * 0.5001 or away.argmax() in (0, 100)
        assert away.max() <= grid.scale * 1.0001
        outside = grid.values(grid.integers(torch.tensor([-1e6, 1e6])))
        assert outside.tolist() == grid.values(torch.tensor([grid.lowest, grid.highest])).tolist()


def sparse(shape, share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return weights(shape).masked_fill(torch.rand(shape, generator=generator) < share, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_what_is_packed_is_had_back_bit_for_bit(dtype):
    state, grids = {"steps": torch.tensor(7), "seen": torch.tensor([True, False]), "empty": torch.empty(0, 3)}, {}
    for number, shape in enumerate(SHAPES):
        for share in (0.0, 0.5, 1.0):
            state[f"sparse {number} {share}"] = sparse(shape, share).to(dtype)
        for bits in BITS:
            name = f"quantised.{number}.{bits}"
            x = weights(shape, seed=number).to(dtype)
            grids[name] = grid_of(*x.aminmax(), bits)
            state[name] = grids[name].values(grids[name].integers(x)).to(dtype)
    state["signed"] = torch.zeros(100, dtype=dtype).index_fill(0, torch.tensor([3]), -0.0)
    state["all zero"] = torch.zeros(3, 3, dtype=dtype)
    grids["all zero"] = grid_of(*state["all zero"].aminmax(), 8)
    before = {name: value.clone() for name, value in state.items()}
    found = unpack(*pack(state, grids))
    assert_same(found, before)
    assert all(value.dtype == before[name].dtype for name, value in found.items())
    assert found["signed"].signbit().equal(before["signed"].signbit())


@pytest.mark.parametrize("count", [8, 100, 1001])
def test_sizes_are_those_by_hand(count):
    zeros = count // 2
    # In no order that would be smaller still.
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    state = {"sparse": (shuffled >= zeros).float(), "dense": torch.ones(count)}
    packed, metadata = pack(state)
    assert packed_size(packed) == math.ceil(count / 8) + 4 * (count - zeros) + 4 * count
    assert json.loads(metadata["packed"]) == {"sparse": {"form": "sparse", "deflated": False, "shape": [count]}}
    for bits in BITS:
        grid = Grid(torch.tensor(0.5), torch.tensor(1.0), bits)
        on_grid = grid.values(torch.arange(count) % 8.0 - 4)
        # Scale and zero are four bytes each.
        assert packed_size(pack({"weight": on_grid}, {"weight": grid})[0]) == math.ceil(count * bits / 8) + 8


def test_a_tensor_that_is_not_on_its_grid_is_refused():
    grid = Grid(torch.tensor(0.5), torch.tensor(0.0), 4)
    with pytest.raises(ValueError, match="head is not on its grid of 4 bits; pack it without one"):
        pack({"head": torch.tensor([0.5, 0.6])}, {"head": grid})


@pytest.mark.parametrize(("share", "at_most"), [(0.9, 0.6), (0.95, 0.4), (0.98, 0.2), ("2:4", 0.7)])
def test_masks_take_less_than_a_bit_where_few_weights_stay(share, at_most):
    """Close to their entropy, of 0.47, 0.29, 0.14 and 0.65 bits for each weight; half of them need the whole bit."""
    scores = torch.rand(500, 400, generator=torch.Generator().manual_seed(0))
    weight = (~gone({"": scores}, share)[""]).to(torch.bfloat16)
    packed, metadata = pack({"weight": weight})
    assert at_most - 0.2 < 8 * packed["weight/mask"].nbytes / weight.numel() < at_most
    assert_same(unpack(packed, metadata), {"weight": weight})


def test_files_of_former_versions_are_read():
    """Whose masks were bits in any case."""
    packed = {"weight/mask": torch.tensor([0b01000001], dtype=torch.uint8), "weight/values": torch.tensor([2.0, -0.0])}
    found = unpack(packed, {"packed": json.dumps({"weight": {"form": "sparse", "shape": [2, 4]}})})["weight"]
    assert found.equal(torch.tensor([[0, 2.0, 0, 0], [0, 0, 0, -0.0]])) and found.signbit().nonzero().tolist() == [
        [1, 3]
    ]


def resnet(share, dtype=torch.float32):
    network = build_network(ModelRecipe(name="resnet8"), 3, 5, torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(sparse(parameter.shape, share))
        network.head.bias[:2] = torch.tensor([-0.0, 0.0])
    return network


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_networks_are_saved_small_and_had_back_bit_for_bit(tmp_path, dtype):
    network = resnet(0.9, dtype)
    save_network(network, tmp_path)
    found, expected = load_network(tmp_path), network.state_dict()
    assert type(found) is type(network)
    assert_same(found.state_dict(), expected)
    assert found.head.bias.signbit().equal(network.head.bias.signbit()) and found.head.bias.signbit()[0]
    dense = sum(value.nbytes for value in expected.values())
    assert sum(value.nbytes for value in load_file(tmp_path / "model.safetensors").values()) < 0.2 * dense


def test_networks_with_few_zeros_are_saved_for_any_reader(tmp_path):
    network = resnet(0.2)
    save_network(network, tmp_path)
    assert_same(load_file(tmp_path / "model.safetensors"), network.state_dict())


def test_a_file_of_other_weights_gives_the_network_with_them(tmp_path):
    save_network(resnet(0.5), tmp_path)
    other = resnet(0.8).state_dict()
    write_weights(tmp_path / "dense.safetensors", other)
    assert_same(load_network(tmp_path / "dense.safetensors").state_dict(), other)
    assert_same(load_network(tmp_path).state_dict(), resnet(0.5).state_dict())


def test_sparse_networks_of_transformers_stay_readable_by_it(tmp_path):
    config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    network = build_network(ModelRecipe(name="transformers", config=config), 1, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(sparse(parameter.shape, 0.9))
    save_network(network, tmp_path)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert_same(plain.state_dict(), network.model.state_dict())
    assert_same(load_network(tmp_path).state_dict(), network.state_dict())
    write_weights(tmp_path / "dense.safetensors", network.state_dict())
    assert_same(load_network(tmp_path / "dense.safetensors").state_dict(), network.state_dict())
