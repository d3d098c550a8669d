# SPDX-License-Identifier: Apache-2.0
"""Activations that wait on the host change nothing but where they are."""

import pytest
import torch
from torch.autograd.graph import save_on_cpu
from transformers import AutoModelForCausalLM, PreTrainedModel

from hylora.language.model import plan_model, prepare_model
from hylora.language.recipe import LanguageRecipe, TrainingRecipe
from hylora.language.task import CausalLoss
from hylora.training.optimizer import trainable
from hylora.training.recipe import RecipeError
from tests.planning.tiny_plans import BAMBA, tiny_recipe


def gradients(folder, offload):
    span = {"chunk_size": [16, 24, 64], "block_size": 8, "top_k": 2, "retrieval": "random"}
    recipe = tiny_recipe(folder, BAMBA, attention=span, training={"offload": offload, "loss_slice": 64})
    plan = plan_model(recipe)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(plan.config, attn_implementation=plan.attention)
    loss = CausalLoss(prepare_model(model, recipe, plan), 64)
    torch.manual_seed(2)
    for parameter in trainable(loss).values():
        # Where LoRA's second matrix is zero, its first has no gradient.
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(96, (2, 130))
    torch.manual_seed(3)
    loss(ids, ids)[0].backward()
    return {name: parameter.grad for name, parameter in trainable(loss).items()}


def test_gradients_are_the_same_to_the_last_bit(tmp_path, monkeypatch):
    """transformers' own hooks, as on an accelerator, but for pinning; chunk sizes are drawn, and replayed."""
    copied = []

    class Copies(save_on_cpu):
        def __init__(self, pin_memory, device_type):
            super().__init__(pin_memory, "cuda")  # of which there is none, so that nothing is pinned
            self.pack_hook = lambda tensor, pack=self.pack_hook: copied.append(tuple(tensor.shape)) or pack(tensor)

    kept = gradients(tmp_path, False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr("transformers.modeling_utils.save_on_cpu", Copies)
    offloaded = gradients(tmp_path, True)
    assert [shape for shape in copied if 0 not in shape] == 2 * [(2, 130, BAMBA["hidden_size"])]
    assert kept.keys() == offloaded.keys()
    assert all(torch.equal(kept[name], offloaded[name]) for name in kept)
    assert all(gradient.any() for gradient in kept.values())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
def test_without_an_accelerator_there_is_nothing_to_move(tmp_path):
    assert gradients(tmp_path, True).keys() == gradients(tmp_path, False).keys()


def test_a_model_that_cannot_is_refused(tmp_path, monkeypatch):
    """Such as one that brings code of its own, older than the option."""
    older = lambda self, gradient_checkpointing_kwargs=None: None  # noqa: E731
    for name in ("gradient_checkpointing_enable", "activation_checkpointing_enable"):
        monkeypatch.setattr(PreTrainedModel, name, older, raising=False)
    with pytest.raises(RecipeError, match="not supported by BambaForCausalLM.*; leave training.offload out"):
        plan_model(tiny_recipe(tmp_path, BAMBA, training={"offload": True}))
    plan_model(tiny_recipe(tmp_path, BAMBA))


def test_there_must_be_something_to_offload():
    with pytest.raises(ValueError, match="gradient_checkpointing=true"):
        TrainingRecipe(offload=True, gradient_checkpointing=False)


def test_a_run_may_be_resumed_with_or_without():
    assert "training.offload" in LanguageRecipe.FREE_ON_RESUME
