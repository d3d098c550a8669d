# SPDX-License-Identifier: Apache-2.0
"""Adapters on bases in four and eight bits: what is quantised, that it trains, and that it comes back."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import hylora
from hylora.adapters import HyLoraConfig, add_adapter, merge_adapter, trainable_groups
from hylora.adapters.quantization import METHODS, Quantization, count_elements, is_quantized
from hylora.runs.fingerprint import model_fingerprint
from hylora.runs.manifest import RunManifest
from hylora.runs.weights import load_weights
from tests.adapters.adapted import IDS, nudge
from tests.architectures.zoo import ZOO
from tests.tiny import tiny_bamba, tiny_llama
from tests.tolerances import assert_close

SIZES = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(params=METHODS)
def method(request):
    pytest.importorskip(METHODS[request.param])
    return request.param


def quantized(build, method, folder, dtype=torch.float32, variant="hylora", **options):
    """A saved model, loaded in fewer bits, and the adapter that is meant for it."""
    model = build(**SIZES)
    model.save_pretrained(folder)
    config = HyLoraConfig.for_model(model, variant, r=4, lora_alpha=8, **options)
    planned = Quantization.plan(method, model, config)
    return load_weights(folder, **planned.arguments(dtype)), config, planned


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, use_cache=False).logits.float()


# What the mixers of the zoo read themselves, blocks that are shared, and the head.
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("bamba", ("lm_head", "out_proj")),
        ("jamba", ("dt_proj", "lm_head")),
        # its rows of 48 numbers are no whole blocks
        ("granitemoehybrid", ("lm_head", "out_proj", "output_linear")),
        ("lfm2", ("lm_head",)),
    ],
)
def test_what_stays_as_it_is(name, kept):
    model = ZOO[name].build(**SIZES, **({"mamba_dt_rank": 64} if name == "jamba" else {}))
    assert Quantization.plan("nf4", model, HyLoraConfig.for_model(model, "lora")).kept == kept


def test_shared_blocks_and_layers_trained_in_full_stay_as_they_are():
    # two layers share one block
    model = ZOO["zamba2"].build()
    kept = Quantization.plan("nf4", model, HyLoraConfig.for_model(model, "lora")).kept
    assert all(
        any(name.endswith(suffix) for suffix in kept)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"[14]\.shared_transformer.*_proj$", name)
    )
    model = tiny_llama(**SIZES)
    config = HyLoraConfig.for_model(model, "lora", modules_to_save="down_proj")
    assert Quantization.plan("nf4", model, config).kept == ("down_proj", "lm_head")


def test_nothing_to_quantize():
    model = tiny_llama(hidden_size=32, intermediate_size=32)
    with pytest.raises(ValueError, match="quantization='nf4' has nothing to quantise in LlamaForCausalLM"):
        Quantization.plan("nf4", model, HyLoraConfig.for_model(model, "lora"))


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quantization='nf4' needs bitsandbytes: pip install 'hylora\[quantiz"):
        Quantization("nf4", ("lm_head",)).arguments(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_trains_in_float32_after_an_evaluation(method, dtype, tmp_path):
    model, config, planned = quantized(tiny_bamba, method, tmp_path, dtype)
    held = {name for name, module in model.named_modules() if is_quantized(module)}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert linear - held == {name for name in linear if name.endswith(planned.kept)}
    size = sum(map(count_elements, model.parameters()))
    assert size == tiny_bamba(**SIZES).num_parameters()
    before = model_fingerprint(model)
    assert before == model_fingerprint(load_weights(tmp_path, **planned.arguments(dtype)))

    model = nudge(add_adapter(model, config), seed=1)
    assert trainable_groups(model)["convs"] and trainable_groups(model)["embeddings"]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert logits(model.eval()).isfinite().all()
        model.train()(IDS, labels=IDS, use_cache=False).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 and parameter.grad.any() for parameter in trained)


@pytest.mark.parametrize("options", [{}, {"use_dora": True, "target_modules": "all-linear"}], ids=["lora", "dora"])
def test_a_run_comes_back_quantized_and_is_exported_with_its_values(method, options, tmp_path):
    base = tmp_path / "base"
    model, config, planned = quantized(tiny_llama, method, base, variant="lora", **options)
    model = nudge(add_adapter(model, config), seed=1, size=0.02).eval()
    expected = logits(model)
    run = tmp_path / "run"
    model.save_pretrained(run)
    manifest = RunManifest.of(model)
    assert manifest.quantization == {"method": method, "kept": planned.kept}
    manifest.save(run)
    with pytest.raises(ValueError, match=r"merge_adapter needs a base with ordinary weights.*dequantize=True"):
        merge_adapter(model)

    loaded = hylora.load(run)
    assert any(map(is_quantized, loaded.modules()))
    assert torch.equal(logits(loaded), expected)
    # LLM.int8 rounds the activations too, of which ordinary weights know nothing
    tolerance = 0.1 if method == "int8" else 1e-3
    plain = hylora.load(run, dequantize=True)
    assert not any(map(is_quantized, plain.modules()))
    assert (logits(plain) - expected).abs().max() < tolerance * expected.abs().max()
    merged = merge_adapter(plain)
    assert_close(logits(merged), logits(hylora.load(run, dequantize=True)))
    assert merged.config.to_dict().get("quantization_config") is None


def test_a_weight_that_is_not_finite_is_found_in_its_scales(method, tmp_path):
    model = tiny_llama(**SIZES)
    planned = Quantization.plan(method, model, HyLoraConfig.for_model(model, "lora"))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must be finite, but model\.layers\.1\.mlp\.up_proj\.weight is not"):
        load_weights(tmp_path, **planned.arguments(torch.float32))


# Rows of whole blocks, for which heads must be more.
WIDE = {**SIZES, "num_attention_heads": 8, "head_dim": 8}
HEADS = {
    "mamba2attn": {"mamba_n_heads": 8},
    "zamba2": {"head_dim": None, "attention_head_dim": 16, "num_key_value_heads": 8, "n_mamba_heads": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_trains_in_fewer_bits(name, method, tmp_path):
    fields = {key: value for key, value in {**WIDE, **HEADS.get(name, {})}.items() if value is not None}
    model = ZOO[name].build(**fields)
    model.save_pretrained(tmp_path)
    variant = "hylora" if ZOO[name].convs else "longlora"
    config = HyLoraConfig.for_model(model, variant, r=2, target_modules="all-linear")
    planned = Quantization.plan(method, model, config)
    model = load_weights(tmp_path, **planned.arguments(torch.bfloat16))
    assert sum(map(is_quantized, model.modules())) >= 10
    model = nudge(add_adapter(model, config), seed=1, size=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(IDS, labels=IDS, use_cache=False).loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()] == []
