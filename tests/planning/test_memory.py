# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest

from hylora.planning import Hardware
from hylora.planning.memory import WEIGHTS, Sharding, check_sharding, estimate_memory
from hylora.planning.simulation import StepProfile
from hylora.training.optimizer import trainable
from hylora.training.recipe import OptimizerRecipe
from tests.tiny import tiny_llama

MICRO_BATCH = {"frozen weights": 800, "trained weights": 400, "gradients": 400, "attention": 10_000_000}


def estimate(optimizer="adamw", sharding="none", gpus=1, micro_batch=MICRO_BATCH, **options):
    model = tiny_llama()
    recipe = OptimizerRecipe(name=optimizer, **options)
    trained = sum(parameter.numel() for parameter in trainable(model).values())
    step = StepProfile(micro_batch, {}, Counter())
    return estimate_memory(step, model, recipe, Sharding(sharding, 1234), gpus), trained


@pytest.mark.parametrize(
    ("optimizer", "options", "size"),
    [("adamw", {}, 8), ("adamw_8bit", {}, 2), ("sgd", {}, 0), ("sgd", {"momentum": 0.9}, 4)],
)
def test_the_optimizers_state(optimizer, options, size):
    memory, trained = estimate(optimizer, **options)
    assert memory.parts.get("optimizer state", 0) == size * trained
    assert memory.total == sum(MICRO_BATCH.values()) + size * trained


def test_where_activations_are_small_the_optimizers_step_counts():
    memory, trained = estimate(micro_batch={**MICRO_BATCH, "attention": 0})
    assert memory.moment == "the optimizer's step"
    assert memory.total == 1200 + (4 + 4 + 8) * trained


def test_what_is_sharded_is_divided_and_activations_are_not():
    alone, trained = estimate()
    everything = {*WEIGHTS, "gradients", "optimizer state"}
    for sharding, divided in (("fsdp", everything), ("zero3", everything), ("zero2", {"gradients"})):
        memory, _ = estimate(sharding=sharding, gpus=4)
        for part in divided:
            assert memory.parts[part] == pytest.approx(alone.parts[part] / 4, abs=1)
        assert memory.parts["attention"] == alone.parts["attention"]
    assert memory.parts["frozen weights"] == alone.parts["frozen weights"]
    replicated, _ = estimate(gpus=4)
    assert replicated.total == alone.total + 4 * trained


def test_an_estimate_leaves_its_input_alone():
    before = dict(MICRO_BATCH)
    estimate(sharding="fsdp", gpus=4)
    assert before == MICRO_BATCH


def test_gathered_weights_are_two_layers_and_what_lies_outside():
    model = tiny_llama()
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert Sharding.of("fsdp", model, "bf16").gathered == 2 * whole  # two layers are all there are
    deep = tiny_llama(num_hidden_layers=5)
    assert Sharding.of("fsdp", deep, "no").gathered == 4 * (whole - 2 * layer + 2 * layer)


def test_zero3_gathers_the_whole_of_a_small_model():
    model = tiny_llama(num_hidden_layers=5)
    whole = sum(parameter.numel() for parameter in model.parameters())
    sharding = Sharding.of("zero3", model, "bf16")
    assert sharding.gathered == 2 * whole
    step = StepProfile(MICRO_BATCH, {}, Counter())
    memory = estimate_memory(step, model, OptimizerRecipe(), sharding, gpus=4)
    assert memory.parts["communication"] == 2 * whole + 4 * whole  # and gradients, all of which fit a bucket


def test_sharding_needs_several_gpus_and_a_known_name():
    check_sharding("fsdp", Hardware.parse("2x80GB"))
    with pytest.raises(ValueError, match="more than one GPU"):
        check_sharding("fsdp", Hardware.parse("1x80GB"))
    with pytest.raises(ValueError, match="must be one of none, fsdp, zero2, zero3"):
        check_sharding("zero4", Hardware.parse("2x80GB"))
