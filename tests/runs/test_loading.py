# SPDX-License-Identifier: Apache-2.0
"""A model comes back as it was trained: attention, options, RoPE scaling and adapter."""

import json

import peft
import pytest
import torch
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

import hylora
from hylora.attention import SpanConfig
from tests.tiny import tiny_bamba, tiny_llama

IDS = torch.arange(1, 49)[None]
OPTIONS = {"block_size": 4, "top_k": 2, "chunk_size": 16}


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


@pytest.fixture
def run_folder(tmp_path):
    """A base model, and a run's folder with an adapter trained (here: drawn) on it under SE-Attn and scaled RoPE."""
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    rope = {**base.config.rope_parameters, "rope_type": "linear", "factor": 4.0}
    config = tiny_llama(rope_parameters=rope).config
    scaled = type(base).from_pretrained(tmp_path / "base", config=config)
    model = peft.get_peft_model(scaled, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    hylora.set_attention(model, "se_attn", **OPTIONS)
    model.save_pretrained(tmp_path / "run")
    hylora.RunManifest(
        attention="se_attn",
        span_attention=SpanConfig(**OPTIONS).to_dict(),
        base_model=str(tmp_path / "base"),
        rope_parameters=rope,
        context_length=48,
    ).save(tmp_path / "run")
    return tmp_path / "run", model.eval()


def test_a_run_comes_back_as_trained(run_folder):
    folder, model = run_folder
    loaded = hylora.load(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config._attn_implementation == "se_attn"
    assert loaded.config.rope_parameters["factor"] == 4.0
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_evaluating_with_full_attention(run_folder):
    folder, model = run_folder
    sparse = logits(model)
    hylora.set_attention(model, "full")
    loaded = hylora.load(folder, attention="full")
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), sparse, atol=1e-4)


def test_options_can_be_replaced_at_load(run_folder):
    folder, model = run_folder
    hylora.set_attention(model, "se_attn", **{**OPTIONS, "top_k": 0})
    assert torch.equal(logits(hylora.load(folder, top_k=0)), logits(model))


def test_a_name_that_stands_for_a_preset_replaces_the_rule_that_was_trained(run_folder):
    config = hylora.load(run_folder[0], "se_attn_recall", chunk_size=64).config
    assert config._attn_implementation == "se_attn"
    assert SpanConfig.of(config) == SpanConfig.preset("recall", chunk_size=64)


def test_an_adapter_can_be_trained_further(run_folder):
    loaded = hylora.load(run_folder[0], trainable=True)
    assert any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.training


def test_a_plain_model_gets_full_attention_unless_asked(tmp_path):
    model = tiny_bamba()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(hylora.load(tmp_path)), logits(model))
    hylora.set_attention(model, "se_attn", **OPTIONS)
    assert torch.equal(logits(hylora.load(tmp_path, attention="se_attn", **OPTIONS)), logits(model))


def test_errors_name_what_is_wrong(run_folder, tmp_path):
    folder, _ = run_folder
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hylora.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="did you mean 'se_attn'"):
        hylora.load(folder, attention="se-attn")
    with pytest.raises(ValueError, match="did you mean 'top_k'"):
        hylora.load(folder, topk=3)
    (folder / "hylora.json").write_text(json.dumps({"attention": "se_attn", "colour": "red"}))
    with pytest.raises(ValueError, match=r"unknown keys \['colour'\]"):
        hylora.load(folder)
    (folder / "hylora.json").unlink()
    with pytest.raises(ValueError, match=r"no hylora\.json"):
        hylora.load(folder)


def test_what_would_be_ignored_is_refused(run_folder):
    folder, _ = run_folder
    with pytest.raises(ValueError, match="takes no options, but top_k was given"):
        hylora.load(folder, attention="full", top_k=3)
    with pytest.raises(ValueError, match="'sdpa' takes no options, but top_k"):
        hylora.load(folder.parent / "base", top_k=3)
    with pytest.raises(ValueError, match="revision='v1' is for hub models"):
        hylora.load(folder, revision="v1")


def test_an_adapter_needs_its_base(run_folder):
    folder, _ = run_folder
    base = folder.parent / "base"
    base.rename(folder.parent / "moved")
    with pytest.raises(FileNotFoundError, match="base_model .* does not exist; move the model back"):
        hylora.load(folder)
    hylora.RunManifest().save(folder)
    with pytest.raises(ValueError, match=r"hylora\.json lies beside an adapter but names no base_model"):
        hylora.load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "holds a JSON list"),
        (b'{"attention": null}', "unknown attention None"),
        (b'{"span_attention": null}', "must be a dictionary of options"),
        (b'{"span_attention": {"top_k": "8"}}', "top_k='8' must be an integer"),
        (b'{"base_model": 7}', "base_model=7 must be a str"),
        (b'{"base_revision": ["main"]}', r"base_revision=\['main'\] must be a str"),
        (b'{"context_length": "8k"}', "context_length='8k' must be a int"),
        (b'{"rope_parameters": "yarn"}', "rope_parameters='yarn' must be a dict"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, content, message):
    (tmp_path / "hylora.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"hylora\.json.*{message}"):
        hylora.RunManifest.load(tmp_path)


def test_a_manifest_refuses_options_that_do_not_exist():
    with pytest.raises(ValueError, match="did you mean 'block_size'"):
        hylora.RunManifest(attention="se_attn", span_attention={"blocksize": 4})


def test_the_manifest_of_a_model_in_hand(run_folder):
    folder, model = run_folder
    model.base_model.model.config.name_or_path = str(folder.parent / "base")
    expected = hylora.RunManifest.load(folder)
    found = hylora.RunManifest.of(model)
    assert found.hylora_version == hylora.__version__
    for name in ("attention", "span_attention", "base_model", "rope_parameters"):
        assert getattr(found, name) == getattr(expected, name)
    found.save(folder)
    assert torch.equal(logits(hylora.load(folder)), logits(model))


def test_the_manifest_of_a_plain_model_names_its_attention_alone():
    model = tiny_bamba()
    assert hylora.RunManifest.of(model) == hylora.RunManifest(hylora_version=hylora.__version__)
    hylora.set_attention(model, "se_attn", **OPTIONS)
    manifest = hylora.RunManifest.of(model)
    assert (manifest.attention, manifest.base_model) == ("se_attn", None)
    assert manifest.span_attention == SpanConfig(**OPTIONS).to_dict()


def test_the_manifest_of_a_model_that_was_flagged_holds_the_presets_options():
    manifest = hylora.RunManifest.of(tiny_bamba(attn_implementation="se_attn_recall"))
    assert (manifest.attention, manifest.span_attention) == ("se_attn", SpanConfig.preset("recall").to_dict())


def test_the_manifest_of_a_composite_model_names_the_attention_of_its_text():
    """Which transformers can set by itself."""
    config = LlavaConfig(text_config=tiny_llama().config, vision_config=CLIPVisionConfig(num_hidden_layers=1))
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.set_attn_implementation({"text_config": "se_attn_recall"})
    manifest = hylora.RunManifest.of(model)
    assert (manifest.attention, manifest.span_attention) == ("se_attn", SpanConfig.preset("recall").to_dict())


@pytest.mark.parametrize(
    "manifest",
    [
        {"attention": "se_attn_recall", "span_attention": {"chunk_size": 64}},
        {"attention": "se_attn", "span_attention": {"preset": "recall", "chunk_size": 64}},
    ],
    ids=["name", "option"],
)
def test_a_manifest_may_name_a_preset(tmp_path, manifest):
    tiny_bamba().save_pretrained(tmp_path)
    (tmp_path / "hylora.json").write_text(json.dumps(manifest))
    assert SpanConfig.of(hylora.load(tmp_path).config) == SpanConfig.preset("recall", chunk_size=64)


def test_an_adapter_on_a_model_without_a_name_gets_no_manifest():
    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"built in memory \(name_or_path=''\)"):
        hylora.RunManifest.of(model)
