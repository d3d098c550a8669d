# SPDX-License-Identifier: Apache-2.0
"""Converting an original checkpoint: what comes out, what is refused, and that nothing half-done is left behind."""

from __future__ import annotations

import copy
import json
import os
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hylora
import hylora_cli
from hylora.models.mamba2attn import conversion
from hylora.models.mamba2attn.conversion import convert
from tests.command_line import run
from tests.models import original


def changed(section: str | None = None, **fields) -> dict:
    """The original config with some fields changed; None takes a field out."""
    config = copy.deepcopy(original.CONFIG)
    part = config[section] if section else config
    part.update(fields)
    for name in [name for name, value in fields.items() if value is None]:
        del part[name]
    return config


def test_every_tensor_arrives(converted):
    written = load_file(converted / "model.safetensors")
    weights = original.weights()
    query, key = 64, 32
    in_proj = weights["backbone.layers.1.mixer.in_proj.weight"]
    assert torch.equal(written["model.layers.1.self_attn.q_proj.weight"], in_proj[:query])
    assert torch.equal(written["model.layers.1.self_attn.k_proj.weight"], in_proj[query : query + key])
    assert torch.equal(written["model.layers.1.self_attn.v_proj.weight"], in_proj[query + key :])
    conv = weights["backbone.layers.1.mixer.conv1d.weight"]
    assert torch.equal(written["model.layers.1.self_attn.conv1d.weight"], conv)
    mixer = weights["backbone.layers.0.mixer.in_proj.weight"]
    assert torch.equal(written["model.layers.0.mamba.in_proj.weight"], mixer)
    # the head is the embedding, once; the vocabulary is the padded one
    assert "lm_head.weight" not in written
    assert written["model.embed_tokens.weight"].shape == (96, 32)
    assert sum(value.numel() for value in written.values()) == sum(
        value.numel() for name, value in weights.items() if name != "lm_head.weight"
    )


def test_the_converted_model_computes_what_the_original_does(converted, ids, expected):
    model = hylora.load(converted)
    assert model.config.vocab_size == 96
    assert (model(ids).logits.double() - expected).abs().max() < 1e-4


@pytest.mark.parametrize("stored", ["one file", "shards", "safetensors", "safetensors in shards", "before torch 1.6"])
def test_all_ways_of_storing_weights_give_the_same(tmp_path, converted, stored):
    weights = original.weights()
    names = sorted(weights)
    original.save(source := tmp_path / "source")
    if stored != "one file":
        (source / "pytorch_model.bin").unlink()
    if "shards" in stored:
        suffix = "safetensors" if "safetensors" in stored else "bin"
        stem = "model" if suffix == "safetensors" else "pytorch_model"
        files = {f"{stem}-{part}.{suffix}": names[part::2] for part in (0, 1)}
        for file, part in files.items():
            values = {name: weights[name].clone() for name in part}
            save_file(values, source / file) if suffix == "safetensors" else torch.save(values, source / file)
        index = {"weight_map": {name: file for file, part in files.items() for name in part}}
        (source / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    elif stored == "safetensors":
        save_file({name: value.clone() for name, value in weights.items()}, source / "model.safetensors")
    elif stored == "before torch 1.6":
        torch.save(weights, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    convert(source, tmp_path / "target")
    expected = load_file(converted / "model.safetensors")
    written = load_file(tmp_path / "target/model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], value) for name, value in expected.items())


def test_large_models_are_written_in_shards(tmp_path, converted, ids):
    done = convert(original.save(tmp_path / "source"), tmp_path / "target", max_shard_size="40KB")
    assert len(done.files) > 2
    assert all((tmp_path / "target" / name).stat().st_size < 50_000 for name in done.files)
    index = json.loads((tmp_path / "target/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(done.files)
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "target", converted)]
    assert torch.equal(models[0](ids).logits, models[1](ids).logits)


def test_dtypes_are_kept_or_chosen_but_decays_and_time_steps_are_float32(tmp_path):
    half = {name: value.half() for name, value in original.weights().items()}
    half["lm_head.weight"] = half["backbone.embedding.weight"]
    original.save(source := tmp_path / "source", half)
    for dtype in (None, "bfloat16", "float32"):
        done = convert(source, tmp_path / f"{dtype}", dtype=dtype)
        expected = getattr(torch, dtype or "float16")
        with safe_open(tmp_path / f"{dtype}/model.safetensors", "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                wide = name.endswith(("A_log", "dt_bias", "D"))
                assert file.get_tensor(name).dtype == (torch.float32 if wide else expected), name
        assert done.dtype == expected
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"{dtype}")
        assert model.dtype == expected
        assert model.model.layers[0].mamba.A_log.dtype == torch.float32


def test_an_untied_head_is_its_own(tmp_path):
    config = changed(tie_embeddings=False)
    weights = original.weights(config)
    convert(original.save(tmp_path / "source", weights, config), tmp_path / "target")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def without(name):
    return lambda weights: weights.pop(name)


def with_value(name, value):
    return lambda weights: weights.update({name: value})


CONV = "backbone.layers.1.mixer.conv1d.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(CONV), r"missing backbone.layers.1.mixer.conv1d.weight \[128, 1, 4\]"),
        (without("backbone.embedding.weight"), "hold no backbone.embedding.weight"),
        (with_value("backbone.layers.0.mlp.fc1.weight", torch.ones(2, 3)), r"unknown backbone.*fc1.weight \[2, 3\]"),
        (with_value(CONV, torch.ones(128, 1, 3)), r"conv1d.weight has shape \[128, 1, 3\] instead of \[128, 1, 4\]"),
        (with_value("backbone.layers.1.mixer.in_proj.weight", torch.ones(192, 32)), r"\[192, 32\] instead of \[128"),
        (with_value(CONV, torch.full((128, 1, 4), torch.nan)), "conv1d.weight holds values that are not finite"),
        (with_value(CONV, torch.ones(128, 1, 4, dtype=torch.int8)), "of type torch.int8 instead of a floating"),
        (with_value("lm_head.weight", torch.ones(96, 32)), "lm_head.weight and backbone.embedding.weight differ"),
        (with_value("step", 3), "must hold a dictionary of tensors"),
    ],
)
def test_wrong_weights_are_refused_by_name_and_leave_nothing(tmp_path, change, message):
    weights = original.weights()
    change(weights)
    original.save(tmp_path / "source", weights)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "source", tmp_path / "target")
    assert os.listdir(tmp_path) == ["source"]


def test_many_problems_are_told_at_once(tmp_path):
    weights = {name: value for name, value in original.weights().items() if "layers.2" not in name}
    with pytest.raises(ValueError, match=r"missing backbone.layers.2.norm.weight \[32\]; .*; and \d more"):
        convert(original.save(tmp_path / "source", weights), tmp_path / "target")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(d_intermediate=64), "d_intermediate=64 is not supported; only 0 is"),
        (changed(rms_norm=False), "rms_norm=False is not supported"),
        (changed("ssm_cfg", layer="Mamba1"), "ssm_cfg.layer='Mamba1' is not supported"),
        (changed("ssm_cfg", layer=None), r"ssm_cfg.layer='Mamba1' \(the default of mamba_ssm\) is not supported"),
        (changed("ssm_cfg", ngroups=2), "ssm_cfg.ngroups=2 is not supported"),
        (changed("ssm_cfg", norm_before_gate=True), "ssm_cfg.norm_before_gate=True is not supported"),
        (changed("ssm_cfg", D_has_hdim=True), "ssm_cfg.D_has_hdim=True is not supported"),
        (changed("ssm_cfg", d_stat=16), "ssm_cfg.d_stat=16 is unknown"),
        (changed("attn_cfg", rotary_emb_interleaved=True), "attn_cfg.rotary_emb_interleaved=True is not supported"),
        (changed("attn_cfg", qkv_proj_bias=None), r"attn_cfg.qkv_proj_bias=True \(the default of mamba_ssm\)"),
        (changed("attn_cfg", causal=None), r"attn_cfg.causal=False \(the default of mamba_ssm\)"),
        (changed("attn_cfg", mlp_dim=256), "attn_cfg.mlp_dim=256 is not supported"),
        (changed("attn_cfg", softmax_scale=0.1), "attn_cfg.softmax_scale=0.1 is not supported"),
        (changed("attn_cfg", d_conv=None), "attention_d_conv=0 must be at least 2"),
        (changed("attn_cfg", rotary_emb_dim=None), "rotates 0 of head_dim=16"),
        (changed("attn_cfg", num_heads=None), "attn_cfg.num_heads is missing"),
        (changed("attn_cfg", num_heads="4"), "attn_cfg.num_heads='4' must be a number"),
        (changed(n_layer="4"), "n_layer='4' must be a int"),
        (changed(ssm_cfg=[1]), r"ssm_cfg=\[1\] must be a dict"),
        (changed(attn_layer_idx=[1, 9]), "attn_layer_idx names layer 9, but n_layer=4"),
        (changed(attn_layer_idx=[]), "no 'hybrid' layer"),
        (changed(vocab_size=1000), "vocab_size=1000, but the embedding has only 96 rows"),
        (changed(moe=True), "moe=True is unknown"),
        (changed(d_model=64), r"backbone.embedding.weight has shape \[96, 32\] instead of \[96, 64\]"),
    ],
)
def test_a_config_that_means_another_model_is_refused_by_field(tmp_path, config, message):
    original.save(tmp_path / "source", original.weights(), config)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "source", tmp_path / "target")
    assert os.listdir(tmp_path) == ["source"]


def test_fields_that_change_no_output_and_missing_ones_are_taken(tmp_path, converted, ids):
    config = changed("ssm_cfg", use_mem_eff_path=False, A_init_range=[1, 2], dt_limit=[0.0, float("inf")])
    del config["d_intermediate"], config["rms_norm"], config["fused_add_norm"]
    convert(original.save(tmp_path / "source", None, changed()), tmp_path / "plain")
    (tmp_path / "source/config.json").write_text(json.dumps(config))
    convert(tmp_path / "source", tmp_path / "target")
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "target", converted)]
    assert torch.equal(models[0](ids).logits, models[1](ids).logits)


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_code_in_a_pickle_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**original.weights(), "x": Harmful()}, original.save(tmp_path / "source") / "pytorch_model.bin")
    with pytest.raises(ValueError, match="can't be read as weights alone"):
        convert(tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_damaged_file_is_named(tmp_path, file):
    original.save(tmp_path / "source")
    (tmp_path / "source" / file).write_bytes(b"not weights" * 100)
    with pytest.raises(ValueError, match=f"{file} can't be read as weights alone"):
        convert(tmp_path / "source", tmp_path / "target")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none of .*pytorch_model.bin"):
        convert(tmp_path, tmp_path / "target")
    source = original.save(tmp_path / "source")
    (source / "config.json").rename(source / "elsewhere.json")
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        convert(source, tmp_path / "target")
    (source / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        convert(source, tmp_path / "target")
    (source / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../source/pytorch_model.bin"}}')
    with pytest.raises(FileNotFoundError, match=r"names '\.\./source/pytorch_model.bin', which is not in"):
        convert(source, tmp_path / "target")


def test_an_existing_target_is_not_touched(tmp_path):
    source = original.save(tmp_path / "source")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/notes").write_text("mine")
    with pytest.raises(FileExistsError, match="target exists"):
        convert(source, tmp_path / "target")
    assert os.listdir(tmp_path / "target") == ["notes"]
    with pytest.raises(ValueError, match="dtype='float8' is not one of"):
        convert(source, tmp_path / "other", dtype="float8")


def test_an_empty_folder_may_be_the_target_and_the_current_one(tmp_path, monkeypatch):
    source = original.save(tmp_path / "source")
    (tmp_path / "target").mkdir()
    monkeypatch.chdir(tmp_path / "target")
    convert(source, ".")
    assert (tmp_path / "target/model.safetensors").is_file()
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


def test_the_target_appears_when_it_is_complete(tmp_path, monkeypatch):
    source = original.save(tmp_path / "source")
    steps = []

    def save(tensors, path, metadata):
        assert not (tmp_path / "target").exists()
        steps.append(path)
        if len(steps) == 2:
            raise OSError("No space left on device")
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr(conversion, "save_file", save)
    with pytest.raises(OSError, match="No space left"):
        convert(source, tmp_path / "target", max_shard_size="40KB")
    assert os.listdir(tmp_path) == ["source"]


def test_the_command_converts_and_says_what_is_left_to_do(tmp_path):
    source, target = original.save(tmp_path / "source"), tmp_path / "target"
    result = run("convert", "mamba2attn", source, target, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert f"{target}: 32,504 parameters in bfloat16, 4 layers of which 2 attend, 1 file(s)" in result.output
    assert "EleutherAI/gpt-neox-20b" in result.output
    assert AutoModelForCausalLM.from_pretrained(target).dtype == torch.bfloat16


def test_the_command_takes_a_tokenizer_along(tmp_path):
    source, target = original.save(tmp_path / "source"), tmp_path / "target"
    (source / "tokenizer.json").write_text("{}")
    (source / "tokenizer_config.json").write_text("{}")
    result = run("convert", "mamba2attn", source, target)
    assert "gpt-neox" not in result.output
    assert (target / "tokenizer.json").read_text() == "{}"


def test_the_command_ends_wrong_input_with_a_message(tmp_path, monkeypatch, capsys):
    source = original.save(tmp_path / "source", None, changed(d_intermediate=64))
    monkeypatch.setattr(sys, "argv", ["hylora", "convert", "mamba2attn", str(source), str(tmp_path / "target")])
    with pytest.raises(SystemExit) as stop:
        hylora_cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: config.json: d_intermediate=64 is not supported")
