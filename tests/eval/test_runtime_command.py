# SPDX-License-Identifier: Apache-2.0
"""`hylora eval runtime`, as it is typed."""

from __future__ import annotations

import json
import sys
from functools import partial

import peft
import pytest
import torch

import hylora
from hylora.attention import SpanConfig
from tests import command_line
from tests.architectures.zoo import ZOO
from tests.tiny import tiny_bamba, tiny_llama

OPTIONS = ("--attention-option", "chunk_size=16", "--attention-option", "block_size=4")
SHORT = ("--rounds", 2, "--warmup", 0, *OPTIONS)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A folder with a config and no weights."""
    folder = tmp_path_factory.mktemp("config")
    tiny_bamba().config.save_pretrained(folder)
    return folder


run = partial(command_line.run, "eval", "runtime")


def test_attention_needs_the_config_alone(tmp_path, config):
    output, plot = tmp_path / "runtime.json", tmp_path / "runtime.png"
    result = run("--model", config, "--lengths", 16, 32, *SHORT, "--output", output, "--plot", plot)
    assert result.exit_code == 0, (result.output, result.exception)
    record = json.loads(output.read_text())
    assert record["kind"] == "runtime" and record["environment"]["torch"]
    expected = SpanConfig(chunk_size=16, block_size=4).to_dict()
    assert record["settings"] | {"part": "attention", "attention_options": expected, "rounds": 2} == record["settings"]
    found = [(part["work"], part["length"], part["contender"]) for part in record["results"]]
    names = ("full", "sw_attn", "s2_attn", "se_attn")
    works = ("forward", "forward+backward", "decode")
    assert found == [(work, length, name) for work in works for length in (16, 32) for name in names]
    for part in record["results"]:
        assert len(part["seconds"]) == 2 and min(part["seconds"]) > 0 and part["peak_bytes"] > 0
        assert part["contender"] != "full" or part["speedup"]["median"] == 1
        assert f"{1e3 * part['time']['median']:.2f} ms" in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_whole_model_with_random_weights(tmp_path):
    tiny_llama().config.save_pretrained(tmp_path / "llama")
    output = tmp_path / "runtime.json"
    model = ("--model", tmp_path / "llama", "--part", "model", "--random-weights", "--decode-tokens", 2)
    result = run(*model, "--lengths", 16, *SHORT, "--attentions", "se_attn, sdpa", "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    record = json.loads(output.read_text())
    assert record["settings"]["random_weights"] and record["settings"]["parameters"] > 10_000
    assert len(record["results"]) == 6
    assert all(part["speedup"] is None for part in record["results"])


def test_a_run_trains_its_adapter_and_keeps_its_options(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(tiny_llama(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "run")
    span = SpanConfig(block_size=4, chunk_size=8).to_dict()
    hylora.RunManifest("se_attn", span, base_model=str(tmp_path / "base")).save(tmp_path / "run")
    output = tmp_path / "runtime.json"
    works = ("--works", "forward+backward", "--attentions", "se_attn", "--attention-option", "top_k=1")
    run("--model", tmp_path / "run", "--lengths", 16, "--part", "model", "--rounds", 1, *works, "--output", output)
    record = json.loads(output.read_text())
    assert record["settings"]["parameters_trained"] == 2 * (2 * 32 + 2 * 32)  # A and B of two query projections
    assert record["settings"]["attention_options"] == {**span, "top_k": 1}
    assert record["results"][0]["error"] is None and record["model"]["base_model"] == str(tmp_path / "base")


def test_a_name_brings_its_own_options(tmp_path):
    """With the summary that another contender has by default, this model would be refused."""
    config, output = tmp_path / "config", tmp_path / "runtime.json"
    ZOO["deepseek_v3"].build().config.save_pretrained(config)
    arguments = ("--model", config, "--lengths", 16, "--attentions", "sw_attn,se_attn_recall", "--works", "forward")
    run(*arguments, "--part", "model", "--random-weights", "--rounds", 1, "--output", output)
    assert [part["contender"] for part in json.loads(output.read_text())["results"]] == ["sw_attn", "se_attn_recall"]


def test_out_of_memory_at_one_point_leaves_the_others(tmp_path, monkeypatch, config):
    from hylora_eval.runtime.workloads import AttentionWorkload

    prepare = AttentionWorkload.prepare

    def fail(self, work, attention, length):
        if (attention, length) == ("full", 32):
            raise torch.OutOfMemoryError("too long")
        return prepare(self, work, attention, length)

    monkeypatch.setattr(AttentionWorkload, "prepare", fail)
    output, plot = tmp_path / "runtime.json", tmp_path / "runtime.png"
    arguments = ("--model", config, "--lengths", 16, 32, "--attentions", "full,se_attn", "--works", "forward")
    result = run(*arguments, *SHORT, "--output", output, "--plot", plot)
    assert result.exit_code == 0, (result.output, result.exception)
    errors = [(part["contender"], part["length"], part["error"]) for part in json.loads(output.read_text())["results"]]
    assert errors == [("full", 16, None), ("se_attn", 16, None), ("full", 32, "out of memory"), ("se_attn", 32, None)]
    assert "out of memory" in result.stdout and plot.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--part": "layer"}, "--part 'layer'"),
        ({"--works": "forward,train"}, "--works 'train'"),
        ({"--attentions": "full,se_atn"}, "did you mean 'se_attn'"),
        ({"--attentions": "full,full"}, "twice"),
        ({"--attentions": "full", "--attention-option": "top_k=1"}, "which has no options"),
        ({"--attention-option": "topk=1"}, "did you mean 'top_k'"),
        ({"--lengths": 1}, "--lengths 1"),
        ({"--model": "EMPTY"}, "holds no model"),
        ({"--output": "OLD"}, "exists"),
        ({"--plot": "runtime.foo"}, "'runtime.foo' does not end in the name of a format"),
        ({"--plot": "runtime"}, "'runtime' does not end in the name of a format"),
    ],
)
def test_wrong_input_is_named_before_anything_is_timed(tmp_path, monkeypatch, config, change, message):
    monkeypatch.setattr("hylora_eval.runtime.rounds.measure", lambda *a, **k: pytest.fail("something was timed"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.json").write_text("kept")
    names = {"EMPTY": tmp_path / "empty", "OLD": tmp_path / "old.json"}
    options = {"--model": config, "--lengths": 16, **change}
    result = run(*(names.get(part, part) for option in options.items() for part in option))
    assert isinstance(result.exception, (ValueError, OSError)), result.output
    assert message in str(result.exception)


def test_a_missing_matplotlib_is_found_out_before_anything_is_timed(tmp_path, monkeypatch, config):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("--model", config, "--lengths", 16, "--plot", tmp_path / "runtime.png")
    assert isinstance(result.exception, ImportError) and "hylora[demo]" in str(result.exception)
