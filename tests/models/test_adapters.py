# SPDX-License-Identifier: Apache-2.0
"""HyLoRA on mamba2attn: both kinds of convolution train, also on a bfloat16 base, and attention reads what trained."""

from __future__ import annotations

import pytest
import torch

from hylora.adapters import HyLoraConfig, add_adapter, load_adapter, merge_adapter, trainable_groups
from tests.tiny import tiny_mamba2attn

# channels of queries or inner ones, those of keys and values or of the states, four taps and a bias
MIXERS, ATTENTIONS = 2 * (64 + 2 * 16) * 5, 2 * (64 + 2 * 32) * 5


@pytest.fixture
def ids():
    return torch.randint(1, 96, (2, 37), generator=torch.Generator().manual_seed(3))


def adapted(dtype=torch.float32):
    model = tiny_mamba2attn(attn_implementation="se_attn", dtype=dtype)
    return add_adapter(model, HyLoraConfig.for_model(model, r=4, lora_alpha=8))


def trained(model, ids):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    model.train()
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_both_kinds_of_convolution_train_on_a_bfloat16_base(ids):
    model = adapted(torch.bfloat16)
    # decays and time steps are in no group
    assert trainable_groups(model) == {
        "attention": 2 * 4 * ((32 + 64) + 2 * (32 + 32) + (64 + 32)),
        "embeddings": 96 * 32,
        "norms": 4 * 32 + 32 + 2 * 64,
        "convs": MIXERS + ATTENTIONS,
        "other": 0,
    }
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained(model, ids)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for layer, kind in ((0, "mamba"), (1, "self_attn"), (2, "mamba"), (3, "self_attn")):
        assert sum(f"layers.{layer}.{kind}.conv1d.modules_to_save" in name for name in moved) == 2


def test_attention_convolves_with_the_trained_weights(ids):
    model = adapted()
    base = model.get_base_model()
    with torch.no_grad():
        expected = model(ids).logits
        base.model.layers[1].self_attn.conv1d.modules_to_save["default"].weight *= 1.5
        assert (model(ids).logits - expected).abs().max() > 1e-2
        with model.disable_adapter():
            torch.testing.assert_close(model(ids).logits, expected)


def test_an_adapter_is_saved_loaded_and_merged(tmp_path, ids):
    model = trained(adapted(), ids)
    with torch.no_grad():
        expected = model(ids).logits
        model.save_pretrained(tmp_path)
        base = tiny_mamba2attn(attn_implementation="se_attn")
        assert (base(ids).logits - expected).abs().max() > 1e-2
        torch.testing.assert_close(load_adapter(base, tmp_path)(ids).logits, expected)
        torch.testing.assert_close(merge_adapter(model)(ids).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", ["conv1d", "out_proj"])
def test_a_lora_that_would_be_skipped_is_refused(target):
    with pytest.raises(ValueError, match=f"target_modules must not name .*{target}"):
        HyLoraConfig.for_model(tiny_mamba2attn(), "lora", target_modules=[target])
