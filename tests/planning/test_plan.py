# SPDX-License-Identifier: Apache-2.0
"""Plans as wholes, on tiny models."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from hylora.adapters import trainable_groups
from hylora.language.model import plan_model
from hylora.planning import Advice, Hardware, TrainingSetup, advise, plan_training
from hylora.planning.operations import attention_operations
from hylora.planning.parameters import count_parameters
from hylora.planning.planner import Estimator
from hylora.planning.simulation import Simulation
from hylora.training.recipe import RecipeError
from tests.planning.tiny_plans import BAMBA, BOUNDED, LATENT, LLAMA, SMALL_SPAN, WINDOWED, tiny_recipe

LARGE = Hardware.parse("1x80GB")
# Leaves 115 MiB for tensors.
SMALL = Hardware.parse("1x2.2GB")


def simulate(recipe, length=256, kernels="torch", **options):
    simulation = Simulation(recipe, plan_model(recipe), "no", kernels=kernels, **options)
    return simulation.run(length), simulation


def activations(profile):
    resident = ("frozen weights", "trained weights", "gradients")
    return sum(size for part, size in profile.memory.items() if part not in resident)


def test_weights_and_gradients_are_those_of_the_model(tmp_path):
    profile, simulation = simulate(tiny_recipe(tmp_path, BAMBA))
    parameters = list(simulation.model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    assert profile.memory["trained weights"] == profile.memory["gradients"] == 4 * trained
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in simulation.model.buffers())
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    assert profile.memory["frozen weights"] == 4 * frozen + buffers


def test_a_step_without_an_earlier_micro_batch_has_no_gradients_to_begin_with(tmp_path):
    recipe = tiny_recipe(tmp_path)
    alone, simulation = simulate(recipe, accumulate=False)
    after, _ = simulate(recipe)
    assert alone.memory.get("gradients", 0) < after.memory["gradients"]
    # A second run finds nothing left over from the first.
    assert simulation.run(256).memory == alone.memory


def test_chance_has_no_part_in_it(tmp_path):
    recipe = tiny_recipe(tmp_path, attention={"chunk_size": [32, 64, 128]})
    first, second = (simulate(recipe)[0] for _ in range(2))
    assert first == second


def test_recomputing_activations_saves_memory_and_costs_a_forward_pass(tmp_path):
    kept, _ = simulate(tiny_recipe(tmp_path, training={"gradient_checkpointing": False}))
    recomputed, _ = simulate(tiny_recipe(tmp_path))
    assert activations(recomputed) < 0.7 * activations(kept)
    assert not any(phase == "recomputation" for _, phase in kept.operations)
    forward, again = (recomputed.operations["attention", phase] for phase in ("forward", "recomputation"))
    assert 0 < again <= forward


def test_linear_layers_take_two_operations_per_weight_and_token(tmp_path):
    profile, _ = simulate(tiny_recipe(tmp_path, adapter={"variant": "none"}))
    hidden, inner, vocabulary = LLAMA["hidden_size"], LLAMA["intermediate_size"], LLAMA["vocab_size"]
    assert profile.operations["feed-forward", "forward"] == 2 * 256 * 2 * 3 * hidden * inner
    # Queries and outputs are as wide as the model, keys and values half as wide.
    assert profile.operations["attention", "forward"] == 2 * 256 * 2 * 3 * hidden * hidden
    # The logits, the gradient of what they are made of, and that of the head.
    assert profile.operations["loss", "forward"] == 3 * 2 * 256 * hidden * vocabulary


def test_the_formula_of_full_attention_is_what_full_attention_takes(tmp_path):
    recipe = tiny_recipe(tmp_path, BAMBA, attention={"name": "full"})
    profile, _ = simulate(recipe)
    assert profile.operations["attention method", "forward"] == attention_operations(32, 256)
    _, compute = Estimator(TrainingSetup(recipe, LARGE)).profile(256)
    assert compute.full_over_method == compute.step_with_full_over_step == 1
    _, other = Estimator(TrainingSetup(tiny_recipe(tmp_path, BAMBA, attention=SMALL_SPAN), LARGE)).profile(256)
    assert other.full_forward == compute.full_forward
    # Whoever plans full attention is told what SE-Attn would bring.
    assert compute.attention.name == "se_attn"
    assert other.step_with_full_over_step == pytest.approx(compute.step / other.step)


def test_span_expanded_attention_takes_its_chunks_blocks_and_summaries(tmp_path):
    estimator = Estimator(TrainingSetup(tiny_recipe(tmp_path, BAMBA, attention=SMALL_SPAN), LARGE))
    _, compute = estimator.profile(256)
    chunks = 4 * attention_operations(32, 64)
    retrieved = 4 * 32 * (3 * 64) * (2 * 8)
    # In each block of 8, queries times keys; four selections among 32 blocks, half of them in the past.
    choosing = 2 * 32 * 8 * 256 + 2 * 16 * 4 * 32 // 2
    assert compute.parts["attention method"]["forward"] == (chunks + retrieved + choosing) / 256
    _, longer = estimator.profile(1024)
    assert longer.full_over_method > 3 * compute.full_over_method


@pytest.mark.parametrize("name", ["se_attn", "sw_attn", "s2_attn"])
def test_what_attention_takes_elsewhere_is_what_is_found_there(tmp_path, name):
    attention = {**SMALL_SPAN, "name": name, "window": 32, "group": 0.25}
    estimator = Estimator(TrainingSetup(tiny_recipe(tmp_path, BAMBA, attention=attention), LARGE))
    (_, short), (_, long) = estimator.profile(320), estimator.profile(2048)
    cost = short.attention
    assert cost.saving(2048) == pytest.approx(long.step_with_full_over_step)
    assert cost.method_step(2048) == pytest.approx(sum(long.parts["attention method"].values()))
    recipe = tiny_recipe(tmp_path, BAMBA, attention={"name": "full"})
    _, full = Estimator(TrainingSetup(recipe, LARGE)).profile(2048)
    assert cost.share(2048) == pytest.approx(sum(full.parts["attention method"].values()) / full.step)
    # Shifted sparse attention over shares of the sequence saves at most those shares.
    tokens = cost.context_of(2)
    assert cost.saving(tokens) == pytest.approx(2, rel=0.02)
    assert (cost.context_of(100) is None) == (name == "s2_attn")


@pytest.mark.parametrize(("config", "width"), [(WINDOWED, 32), (LATENT, 4 * 12)], ids=["windows", "latent"])
def test_windows_are_kept_and_queries_may_be_wider_than_values(tmp_path, config, width):
    attention = {**SMALL_SPAN, "summary": "mean_std"}
    recipe = tiny_recipe(tmp_path, config, attention=attention, adapter={"variant": "longlora"})
    (_, short), (_, long) = map(Estimator(TrainingSetup(recipe, LARGE)).profile, (320, 2048))
    cost = short.attention
    assert [queries for queries, _ in (*cost.widths, *cost.windows)] == [width] * config["num_hidden_layers"]
    assert cost.method_step(2048) == pytest.approx(sum(long.parts["attention method"].values()))
    assert long.full_forward < 2.1 * attention_operations(width, 2048) / 2048


@pytest.mark.parametrize("checkpointing", [True, False])
def test_all_but_attention_takes_as_much_per_token_at_every_context(tmp_path, checkpointing):
    """Where scores have a bound full attention is `eager`, whose products stand among others."""
    training = {"gradient_checkpointing": checkpointing}
    arguments = {"attention": {"name": "full"}, "adapter": {"variant": "longlora"}, "training": training}
    recipe = tiny_recipe(tmp_path, BOUNDED, **arguments)
    (_, short), (_, long) = map(Estimator(TrainingSetup(recipe, LARGE)).profile, (64, 512))
    assert short.attention.rest == pytest.approx(long.attention.rest)
    assert long.parts["attention method"]["forward"] == 4 * 512 * 4 * 32


def test_a_model_without_attention_has_nothing_to_save(tmp_path):
    bare = {**BAMBA, "attn_layer_indices": []}
    recipe = tiny_recipe(tmp_path, bare, attention={"name": "full"}, adapter={"variant": "none"})
    _, compute = Estimator(TrainingSetup(recipe, LARGE)).profile(64)
    assert compute.full_over_method == compute.step_with_full_over_step == 1
    assert compute.attention.context_of(1.5) is None


@pytest.mark.slow
def test_what_is_offloaded_waits_on_the_host(tmp_path):
    deep = {**BAMBA, "num_hidden_layers": 5}
    plans = {}
    for offload in (False, True):
        training = {"sequence_length": 1000, "loss_slice": 250, "offload": offload}
        recipe = tiny_recipe(tmp_path, deep, training=training)
        plans[offload] = Estimator(TrainingSetup(recipe, Hardware.parse("1x2GB"))).plan()
    kept, offloaded = plans[False].memory, plans[True].memory
    size = 4 * 1000 * deep["hidden_size"]
    assert (kept.offloaded, offloaded.offloaded) == ((), 5 * (size,))
    assert offloaded.pinned == 5 * 4 * 1024 * deep["hidden_size"]
    # The layer at work needs its own again.
    assert kept.total - offloaded.total >= 3 * size
    assert Advice("training.offload=true", kept.total - offloaded.total, False) in advise(plans[False])


@pytest.mark.parametrize("name", ["sw_attn", "s2_attn"])
def test_the_rivals_are_planned(tmp_path, name):
    training = {"gradient_checkpointing": False}
    recipe = tiny_recipe(tmp_path, training=training, attention={"name": name, "window": 32, "group": 0.25})
    memory, compute = Estimator(TrainingSetup(recipe, LARGE)).profile(512)
    assert compute.full_over_method > 1.5
    assert memory.parts["attention"] > 0


def test_parameters_are_counted_by_group(tmp_path):
    recipe = tiny_recipe(tmp_path, BAMBA)
    model = Estimator(TrainingSetup(recipe, LARGE)).model
    counts = count_parameters(model)
    assert {group: count.trained for group, count in counts.items()} == trainable_groups(model)
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(plan_model(recipe).config)
    assert sum(count.model for count in counts.values()) == sum(parameter.numel() for parameter in bare.parameters())
    for group in ("embeddings", "norms", "convs"):
        assert counts[group].model == counts[group].trained > 0


def test_a_run_that_does_not_fit_is_told_what_to_change(tmp_path):
    training = {"sequence_length": 2**14, "gradient_checkpointing": False, "batch_size": 2}
    setup = TrainingSetup(tiny_recipe(tmp_path, training=training), SMALL)
    plan = plan_training(setup)
    assert not plan.fits
    assert 0 < plan.longest < 2**14
    recipe = replace(setup.recipe, training=replace(setup.recipe.training, sequence_length=plan.longest))
    assert Estimator(replace(setup, recipe=recipe)).total(plan.longest) <= SMALL.usable
    advice = advise(plan)
    changes = [item.change for item in advice]
    assert {"training.gradient_checkpointing=true", "training.batch_size=1"} <= set(changes)
    assert [item.saves for item in advice] == sorted((item.saves for item in advice), reverse=True)
    by_change = dict(zip(changes, advice, strict=True))
    recomputed = replace(setup.recipe, training=replace(setup.recipe.training, gradient_checkpointing=True))
    changed = Estimator(replace(setup, recipe=recomputed)).total(2**14)
    assert by_change["training.gradient_checkpointing=true"].saves == plan.memory.total - changed
    assert by_change["training.gradient_checkpointing=true"].fits == (changed <= SMALL.usable)


def test_the_context_that_is_planned_is_not_the_context_that_is_searched(tmp_path):
    plan = plan_training(TrainingSetup(tiny_recipe(tmp_path), SMALL))
    assert plan.fits
    assert plan.longest == plan.longest_tried == 16 * 256


@pytest.mark.slow
def test_what_is_tried_is_told(tmp_path):
    said = []
    training = {"sequence_length": 2**14, "gradient_checkpointing": False}
    plan = plan_training(TrainingSetup(tiny_recipe(tmp_path, training=training), SMALL), said.append)
    assert said[1] == "Trying a step of 16,384 tokens"
    # The planned context is not tried again, nor are many others.
    assert 0 < len(said[2:]) < 8
    assert all("longest context" in step for step in said[2:])
    advise(plan, said.append)
    assert said[-1].endswith("training.sequence_length=8192")


def test_what_the_model_refuses_is_refused(tmp_path):
    window = {**LLAMA, "model_type": "mistral", "sliding_window": 64}
    with pytest.raises(RecipeError, match="sliding window of its own"):
        plan_training(TrainingSetup(tiny_recipe(tmp_path, window, adapter={"variant": "longlora"}), LARGE))
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe = tiny_recipe(tmp_path)
        missing = replace(recipe, model=replace(recipe.model, path=str(tmp_path / "nowhere")))
        plan_training(TrainingSetup(missing, LARGE))
    with pytest.raises(ValueError, match="must be one of fused, torch"):
        TrainingSetup(tiny_recipe(tmp_path), LARGE, kernels="triton")
