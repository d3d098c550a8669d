# SPDX-License-Identifier: Apache-2.0
"""The language task: its loss is transformers' own, on plain, tied, adapted and wrapped models."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hylora.adapters import HyLoraConfig, add_adapter
from hylora.language.data import Padding
from hylora.language.task import CausalLoss
from tests.tiny import tiny_bamba, tiny_llama

BUILDERS = {
    "bamba": tiny_bamba,
    "bamba-tied": lambda: tiny_bamba(tie_word_embeddings=True),
    "llama": tiny_llama,
    "llama-tied": lambda: tiny_llama(tie_word_embeddings=True),
}


def batch_of(length=21):
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(96, (2, length), generator=generator)
    labels = input_ids.clone()
    labels[0, :5] = -100
    return input_ids, labels


def mean_gradients(model, loss):
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("variant", [None, "lora", "hylora"])
@pytest.mark.parametrize("name", BUILDERS)
def test_loss_and_gradients_are_the_models_own(name, variant):
    if variant == "hylora" and name.startswith("llama"):
        variant = "longlora"
    model = BUILDERS[name]().train()
    if variant is not None:
        model = add_adapter(model, HyLoraConfig.for_model(model, variant=variant, r=2, lora_alpha=4))
    input_ids, labels = batch_of()
    expected = model(input_ids=input_ids, labels=labels).loss
    loss_sum, count = CausalLoss(model, slice_length=5)(input_ids=input_ids, labels=labels)
    assert count == (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(loss_sum / count, expected)
    found = mean_gradients(model, loss_sum / count)
    for parameter, gradient in mean_gradients(model, expected).items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6, msg=parameter)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "granite", "logits_scaling": 4.0},
        {"model_type": "cohere", "logit_scale": 0.25},
        {"model_type": "gemma2", "final_logit_softcapping": 3.0, "head_dim": 8},
    ],
    ids=lambda config: config["model_type"],
)
def test_models_that_change_their_logits(config):
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config, **sizes, **heads))
    input_ids, labels = batch_of()
    loss_sum, count = CausalLoss(model, slice_length=8)(input_ids=input_ids, labels=labels)
    torch.testing.assert_close(loss_sum / count, model(input_ids=input_ids, labels=labels).loss)


def test_rows_of_different_length_are_padded_without_changing_the_loss():
    """Two documents of unequal length cost what they cost alone."""
    rows = [{"input_ids": ids, "labels": ids} for ids in (torch.arange(9), torch.arange(20, 25))]
    model, collate = CausalLoss(tiny_llama(), slice_length=16), Padding()
    together = model(**collate(rows))
    alone = [model(**collate([row])) for row in rows]
    assert together[1] == 8 + 4
    torch.testing.assert_close(together[0], alone[0][0] + alone[1][0])
