# SPDX-License-Identifier: Apache-2.0
"""Adapters saved, loaded (also by PEFT alone), switched and disabled give the outputs they should."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from hylora.adapters import (
    HyLoraConfig,
    add_adapter,
    load_adapter,
    match_base_dtype,
    merge_adapter,
    trainable_groups,
)
from tests.adapters.adapted import IDS, adapted, every_model, nudge
from tests.tiny import tiny_bamba, tiny_llama
from tests.tolerances import assert_close


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(IDS).logits


def head_is_tied(model) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@every_model
def test_plain_peft_loads_a_saved_adapter(build, variant, tied, tmp_path):
    model = adapted(build, variant, tied)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(tie_word_embeddings=tied), tmp_path)
    assert not torch.equal(logits(model), logits(build(tie_word_embeddings=tied)))
    assert torch.equal(logits(loaded), logits(model))
    assert head_is_tied(loaded.get_base_model()) == tied


@every_model
def test_a_saved_adapter_holds_what_was_trained_and_nothing_else(build, variant, tied, tmp_path):
    model = adapted(build, variant, tied)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    trained = {
        name.replace(".modules_to_save.default", "").replace(".default", ""): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad
    }
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_a_fresh_process_loads_an_adapter_without_hylora(tmp_path):
    models = {
        "bamba": (tiny_bamba, adapted(tiny_bamba, "hylora", tied=True)),
        "llama": (tiny_llama, adapted(tiny_llama, "longlora")),
    }
    for name, (build, model) in models.items():
        build(tie_word_embeddings=name == "bamba").save_pretrained(tmp_path / name)
        model.save_pretrained(tmp_path / f"{name}-adapter")
    program = f"""
import sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ids = torch.tensor({IDS.tolist()})
out = {{}}
for name in {list(models)}:
    base = AutoModelForCausalLM.from_pretrained(f"{tmp_path}/{{name}}")
    model = PeftModel.from_pretrained(base, f"{tmp_path}/{{name}}-adapter").eval()
    with torch.no_grad():
        out[name] = model(ids).logits
assert not any(name.startswith("hylora") for name in sys.modules)
save_file(out, "{tmp_path}/logits.safetensors")
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    for name, actual in load_file(tmp_path / "logits.safetensors").items():
        assert_close(actual, logits(models[name][1]))


@every_model
def test_inference_in_bfloat16_without_autocast(build, variant, tied, tmp_path):
    """Plain PEFT rounds to the base's dtype as it loads; so does `match_base_dtype`, and the outputs are the same."""
    model = adapted(build, variant, tied, torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(tie_word_embeddings=tied, dtype=torch.bfloat16), tmp_path)
    assert torch.equal(logits(match_base_dtype(model)), logits(loaded))
    assert logits(loaded).dtype == torch.bfloat16
    tokens = model.generate(input_ids=IDS, max_new_tokens=3, do_sample=False)
    assert tokens.shape == (2, IDS.shape[1] + 3)


@every_model
def test_an_adapter_loaded_to_train_on_is_what_was_saved(build, variant, tied, tmp_path):
    model = adapted(build, variant, tied, torch.bfloat16)
    model.save_pretrained(tmp_path)
    base = build(tie_word_embeddings=tied, dtype=torch.bfloat16)
    loaded = load_adapter(base, tmp_path, trainable=True)
    assert trainable_groups(loaded) == trainable_groups(model)
    for (name, expected), (loaded_name, actual) in zip(
        model.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert name == loaded_name
        assert expected.dtype == actual.dtype
        assert torch.equal(expected, actual)
        assert expected.requires_grad == actual.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits(loaded), logits(model))


@every_model
def test_an_adapter_loaded_for_inference_is_frozen(build, variant, tied, tmp_path):
    adapted(build, variant, tied).save_pretrained(tmp_path)
    loaded = load_adapter(build(tie_word_embeddings=tied), tmp_path)
    assert sum(trainable_groups(loaded).values()) == 0


@every_model
def test_a_disabled_adapter_leaves_the_base(build, variant, tied):
    model = adapted(build, variant, tied)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(build(tie_word_embeddings=tied)))
    assert torch.equal(logits(model), logits(adapted(build, variant, tied)))


@pytest.mark.parametrize("tied", [False, True])
def test_two_adapters_on_one_model(tied, tmp_path):
    model = adapted(tiny_bamba, "hylora", tied)
    first = logits(model)
    model = nudge(add_adapter(model, HyLoraConfig.for_model(model, "longlora", r=2), "second"), seed=2)
    assert model.active_adapters == ["second"]
    assert trainable_groups(model)["convs"] == 0
    second = logits(model)
    assert not torch.equal(first, second)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    assert trainable_groups(model)["convs"] > 0

    model.save_pretrained(tmp_path)
    alone = PeftModel.from_pretrained(tiny_bamba(tie_word_embeddings=tied), tmp_path / "second")
    assert torch.equal(logits(alone), second)

    both = load_adapter(tiny_bamba(tie_word_embeddings=tied), tmp_path)
    both = load_adapter(both, tmp_path / "second", "second")
    assert torch.equal(logits(both), second)
    assert head_is_tied(both.get_base_model()) == tied
    both.set_adapter("default")
    assert torch.equal(logits(both), first)
    both.set_adapter("second")
    merged = merge_adapter(both)
    assert_close(logits(merged), second)
    assert head_is_tied(merged) == tied


def test_a_third_adapter_may_leave_the_embeddings_alone():
    model = adapted(tiny_bamba, "hylora", tied=True)
    base = tiny_bamba(tie_word_embeddings=True)
    expected = logits(adapted(tiny_bamba, "lora", tied=True))
    assert not torch.equal(expected, logits(base))
    model = nudge(add_adapter(model, HyLoraConfig.for_model(model, "lora", r=4, lora_alpha=8), "second"), seed=1)
    assert torch.equal(logits(model), expected)


def test_pickled_weights_are_not_read(tmp_path):
    adapted(tiny_bamba, "lora").save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(FileNotFoundError, match=r"must hold adapter_model\.safetensors"):
        load_adapter(tiny_bamba(), tmp_path)
