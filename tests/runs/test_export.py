# SPDX-License-Identifier: Apache-2.0
"""A run becomes an ordinary model: what plain transformers loads from it is what was trained."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import hylora
from hylora.attention import SpanConfig
from hylora.demo.miniature import ASSETS
from hylora.runs.card import model_card
from hylora.runs.export import export
from tests import command_line
from tests.adapters.adapted import nudge
from tests.architectures.zoo import ZOO
from tests.pages import blocks
from tests.tiny import tiny_bamba, tiny_mamba2attn
from tests.tolerances import assert_close

IDS = torch.arange(1, 49)[None]
SPAN = {"block_size": 4, "top_k": 2, "chunk_size": 16}
TIED = {"tie_word_embeddings": True}


@torch.no_grad()
def logits(model):
    return model.eval()(IDS, use_cache=False).logits


def write_run(folder: Path, build, *, adapter=hylora.add_adapter, attention="se_attn", rope=None, **manifest) -> Path:
    """A base model in `folder`, and beside it a run's folder as training writes it; returns the latter."""
    base, run = folder / "base", folder / "run"
    build().save_pretrained(base)
    model = build() if rope is None else build(rope_parameters=rope)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    if adapter is None:
        SpanConfig(**SPAN).keep_on(model.config)
    else:
        model = nudge(adapter(model, hylora.HyLoraConfig.for_model(model, r=4, lora_alpha=8)), seed=1)
    model.save_pretrained(run)
    tokenizer.save_pretrained(run)
    hylora.RunManifest(
        attention=attention,
        span_attention=SpanConfig(**SPAN).to_dict() if attention != "sdpa" else {},
        base_model=None if adapter is None else str(base),
        rope_parameters=rope,
        context_length=64,
        **manifest,
    ).save(run)
    return run


def stretched(rope_type):
    return {**tiny_bamba().config.rope_parameters, "rope_type": rope_type, "factor": 4.0, "rope_theta": 500.0}


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path, lambda **fields: tiny_bamba(**TIED, **fields), rope=stretched("linear"))


hylora_export = partial(command_line.run, "export")


def test_plain_transformers_loads_what_was_trained(run, tmp_path):
    """In a process of its own, without hylora in it."""
    full = write_run(tmp_path / "full", tiny_bamba, adapter=None)
    runs = {"merged": run, "whole": full}
    for name, folder in runs.items():
        export(folder, tmp_path / name)
    program = f"""
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from safetensors.torch import save_file

ids = torch.tensor({IDS.tolist()})
out = {{}}
for name in {list(runs)}:
    folder = f"{tmp_path}/{{name}}"
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert AutoTokenizer.from_pretrained(folder)("a test")["input_ids"]
    with torch.no_grad():
        out[name] = model.eval()(ids, use_cache=False).logits
assert not any(name.split(".")[0] in ("hylora", "peft") for name in sys.modules)
save_file(out, "{tmp_path}/logits.safetensors")
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    for name, actual in load_file(tmp_path / "logits.safetensors").items():
        assert_close(actual, logits(hylora.load(runs[name], attention="full")))


@pytest.mark.parametrize("name", ["zamba2", "lfm2"])
def test_other_architectures_come_out_right(name, tmp_path):
    def build(**fields):
        return ZOO[name].build(**TIED, **fields)

    run = write_run(tmp_path, build)
    export(run, tmp_path / "out")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_close(logits(exported), logits(hylora.load(run, attention="full")))
    assert exported.num_parameters() == build().num_parameters()


def test_the_folder_is_complete(run, tmp_path):
    export(run, tmp_path / "new" / "out")
    files = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert files >= {"config.json", "generation_config.json", "model.safetensors", "README.md", "hylora.json"}
    assert {path.name for path in ASSETS.glob("*token*")} <= files
    assert not [name for name in files if name.startswith("adapter")]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_attention_of_training_can_be_turned_on_again(run, tmp_path):
    export(run, tmp_path / "out")
    assert_close(logits(hylora.load(tmp_path / "out")), logits(hylora.load(run)))
    full = logits(hylora.load(tmp_path / "out", attention="full"))
    assert not torch.allclose(full, logits(hylora.load(run)), atol=1e-3)
    # the base may be gone by then
    assert json.loads((tmp_path / "out" / "hylora.json").read_text())["base_model"] is None


def test_the_attention_flag_of_transformers_takes_the_trained_options(run, tmp_path):
    export(run, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="se_attn")
    assert_close(logits(model), logits(hylora.load(run)))


@pytest.mark.parametrize(("own", "expected"), [(32, 64), (4096, 4096)])
def test_the_config_admits_the_context_of_training(own, expected, tmp_path):
    export(write_run(tmp_path, lambda: tiny_bamba(max_position_embeddings=own)), tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").max_position_embeddings == expected


def test_the_context_of_scaled_positions_is_not_touched(tmp_path):
    """Dynamic scaling starts from it."""
    run = write_run(
        tmp_path, lambda **fields: tiny_bamba(max_position_embeddings=32, **fields), rope=stretched("dynamic")
    )
    export(run, tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").max_position_embeddings == 32


def test_whoever_may_read_new_files_may_read_the_model(run, tmp_path):
    before = os.umask(0o027)
    try:
        export(run, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o640}, modes


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn"])
def test_older_names_of_rope_parameters_say_the_same(rope_type, tmp_path):
    rope = stretched(rope_type)
    export(write_run(tmp_path, tiny_bamba, rope=rope), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_theta"] == 500.0
    assert written["rope_scaling"].items() >= {"rope_type": rope_type, "factor": 4.0}.items()
    assert AutoConfig.from_pretrained(tmp_path / "out").rope_parameters == rope


def test_older_names_of_the_tokenizer_class_say_the_same(run, tmp_path):
    export(run, tmp_path / "out")
    assert json.loads((run / "tokenizer_config.json").read_text())["tokenizer_class"] == "TokenizersBackend"
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    text = "Ünïcode, <|endoftext|> and 4 words."
    expected = AutoTokenizer.from_pretrained(run)
    actual = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(actual) is type(expected)
    assert actual(text)["input_ids"] == expected(text)["input_ids"]
    assert actual.special_tokens_map == expected.special_tokens_map


def test_without_scaling_no_older_name_asks_for_any(tmp_path):
    export(write_run(tmp_path, tiny_bamba), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "rope_scaling" not in written
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"]
    assert written["partial_rotary_factor"] == written["rope_parameters"]["partial_rotary_factor"]


def test_dtype_and_shards(run, tmp_path):
    model = export(run, tmp_path / "out", dtype="bfloat16", max_shard_size="50KB")
    weights = [load_file(path) for path in sorted((tmp_path / "out").glob("model-*.safetensors"))]
    assert len(weights) > 1
    assert {tensor.dtype for shard in weights for tensor in shard.values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == model.dtype == torch.bfloat16


def test_the_card_says_what_it_is_and_what_runs_it(run, tmp_path):
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        "| base model | base |",
        "LoRA of rank 4, alpha 8, merged",
        "in full: `conv1d`, `embed_tokens`, `final_layernorm`,",
        "| training context | 64 tokens |",
        "linear scaling (",
        "factor 4",
        "SE-Attn): block_size 4, top_k 2, chunk_size 16",
        "computes **full attention** with it",
        "as trained",
    ):
        assert text in card
    assert str(tmp_path) not in card
    assert "no longer shared" not in card


@pytest.mark.parametrize(
    ("rope_type", "advice"),
    [("linear", "vLLM with `--max-model-len 16384`"), ("dynamic", "vLLM computes the base"), ("yarn", None)],
)
def test_the_card_says_where_vllm_reads_rope_scaling_otherwise(rope_type, advice):
    config = copy.deepcopy(tiny_bamba().config)
    applied = hylora.RopeScaling(type=rope_type, factor=4.0).apply(config)
    manifest = hylora.RunManifest(**applied)
    card = model_card(tiny_bamba(**applied), manifest, None, "name")
    if advice is None:
        assert "max-model-len" not in card and "vLLM computes the base" not in card
    else:
        assert advice in card


def test_the_cards_code_runs(run, tmp_path, monkeypatch):
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks(card, "python")[0], names)
    assert names["model"].config._attn_implementation == "se_attn"


def test_the_card_of_a_run_with_full_attention_promises_nothing_else(tmp_path):
    run = write_run(tmp_path, tiny_bamba, attention="sdpa")
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| attention in training | full attention |" in card
    assert "SE-Attn" not in card
    assert "import hylora" not in card


def test_a_model_of_hylora_is_said_to_need_it(tmp_path, monkeypatch):
    run = write_run(tmp_path, tiny_mamba2attn)
    result = hylora_export(run, tmp_path / "out")
    assert "transformers alone has no class for 'mamba2attn': this model needs hylora" in result.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "other software, transformers alone included, has no code for it" in card
    assert "vLLM" not in card
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks(card, "python")[0], names)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_close(logits(exported), logits(hylora.load(run, attention="full")))


def test_the_card_names_weights_that_are_no_longer_shared(tmp_path):
    run = write_run(tmp_path, ZOO["zamba2"].build, adapter=get_peft_model)
    with pytest.warns(UserWarning, match="no longer shared"):
        export(run, tmp_path / "out")
    assert "so 6 weights (such as `model.layers.4" in (tmp_path / "out" / "README.md").read_text()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_close(logits(exported), logits(hylora.load(run, attention="full")))


def test_a_hub_base_is_linked(run, tmp_path, monkeypatch):
    path = run / "hylora.json"
    base = json.loads(path.read_text())["base_model"]
    path.write_text(path.read_text().replace(base, "owner/name"))
    monkeypatch.setattr("hylora.runs.loading._base_model", lambda manifest, folder: base)
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\nbase_model: owner/name\n" in card
    assert "| base model | owner/name |" in card


def test_a_hostile_manifest_writes_neither_metadata_nor_markup():
    evil = "a/b\nlicense: mit\n---\n\n<script>alert(1)</script> ![x](http://y/z) `c` | d"
    manifest = hylora.RunManifest(base_model=evil, base_revision=evil, rope_parameters={"rope_type": evil, evil: 1})
    card = model_card(tiny_bamba(), manifest, None, "name")
    metadata = card.split("---\n")[1]
    assert "license" not in metadata and "base_model" not in metadata
    assert "<script" not in card
    assert "\nlicense" not in card
    (row,) = [line for line in card.splitlines() if line.startswith("| base model")]
    assert r"\`c\` \| d at a/b license" in row and r"\!\[x\](http://y/z)" in row


def test_nothing_half_written_is_left(run, tmp_path, monkeypatch):
    def fail(self, folder, **options):
        (Path(folder) / "config.json").touch()
        raise OSError("No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OSError, match="No space left"):
        export(run, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


def test_refusals(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        export(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match=r"base' holds no hylora\.json, so it is no finished run"):
        export(tmp_path / "base", tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"base' exists; name a folder that does not"):
        export(run, tmp_path / "base")
    with pytest.raises(ValueError, match="dtype='int8' is not one of auto, float32"):
        export(run, tmp_path / "out", dtype="int8")
    with pytest.raises(ValueError, match="max_shard_size='big' is not a size such as '5GB'"):
        export(run, tmp_path / "out", max_shard_size="big")
    for path in run.glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded .* nor from the base model .*base'; save the"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(run, tmp_path):
    result = hylora_export(run, tmp_path / "out", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "BambaForCausalLM" in result.output
    assert "bfloat16" in result.output
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert isinstance(hylora_export(run, tmp_path / "out").exception, FileExistsError)
