# SPDX-License-Identifier: Apache-2.0
"""`hylora audit` from the command line."""

import json
from functools import partial

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from hylora.adapters import HyLoraConfig, add_adapter
from hylora.runs.manifest import RunManifest
from tests import command_line
from tests.architectures.zoo import ZOO
from tests.planning.tiny_plans import BAMBA, LLAMA, config_file, tiny_recipe

run = partial(command_line.run, "audit", env={"COLUMNS": "160"})


def only(*names):
    return [word for name in names for word in ("--ask", name)]


def test_a_config_is_audited_in_miniature(tmp_path):
    written = tmp_path / "audit.json"
    model = config_file(tmp_path, {**BAMBA, "vocab_size": 1000})
    result = run(model, *only("packed", "padded_left"), "--json", written)
    assert result.exit_code == 1, result.output
    for text in ("BambaForCausalLM", "random weights, 2 of 2 layers", "512 of 1000 tokens", "1 yes, 1 no"):
        assert text in result.output
    found = json.loads(written.read_text())
    assert found["passed"] is False
    answers = {answer["name"]: answer for answer in found["answers"]}
    assert list(answers) == ["packed", "padded_left"]
    assert answers["packed"]["status"] == "no"
    assert answers["packed"]["difference"] > 0.01
    assert answers["packed"]["remedy"]
    assert answers["padded_left"]["difference"] < 3e-5


def test_a_recipe_is_audited_as_training_would_begin(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    tree = tiny_recipe(tmp_path, LLAMA, attention={"name": "se_attn_recall"}).to_tree()
    recipe.write_text(yaml.safe_dump(tree))
    written = tmp_path / "audit.json"
    result = run(
        config_file(tmp_path, LLAMA),
        *("--recipe", recipe),
        *only("packed", "gradients", "causal", "checkpointed"),
        *("--json", written),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(written.read_text())
    answers = {answer["name"]: (answer["status"], answer["cause"]) for answer in found["answers"]}
    assert answers["packed"] == ("not asked", "the recipe packs no documents side by side (data.packing='eos')")
    assert answers["gradients"][0] == answers["causal"][0] == answers["checkpointed"][0] == "yes"
    assert "attention: se_attn" in found["conditions"]
    assert "with the adapter 'default'" in found["model"]


@pytest.mark.parametrize("small", [[], ["--small"]], ids=["its weights", "small"])
def test_a_run_is_audited_with_its_adapter(tmp_path, small):
    base, folder = tmp_path / "base", tmp_path / "run"
    model = ZOO["bamba"].build(attn_implementation="se_attn")
    model.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="se_attn")
    model = add_adapter(model, HyLoraConfig.for_model(model, r=2, lora_alpha=4))
    model.save_pretrained(folder)
    RunManifest.of(model).save(folder)
    result = run(folder, *small, *only("gradients", "merged"))
    assert result.exit_code == 0, result.output
    assert "with the adapter 'default'" in result.output
    assert ("a miniature" in result.output) == bool(small)


def test_an_adapter_of_peft_alone_is_audited(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    ZOO["zamba2"].build().save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    result = run(folder, *only("gradients", "merged_by_peft"))
    assert result.exit_code == 1, result.output
    assert "hylora.merge_adapter" in result.output
    assert "1 yes, 1 no" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a model, a recipe or both"),
        (("MODEL", "--recipe", "nowhere.yaml"), "cannot read the recipe 'nowhere.yaml'"),
        (("MODEL", "--recipe", "x.yaml", "--attention", "full"), "must not come with a recipe"),
        (("MODEL", "--attention", "se_atn"), "unknown attention 'se_atn'"),
        (("MODEL", "--attention-option", "top_k=4"), "must come with an attention"),
        (("MODEL", "--attention", "se_attn", "--attention-option", "top_k"), "not of the form KEY=VALUE"),
        (("MODEL", "--ask", "paked"), "did you mean 'packed'"),
        (("outputs/no/model",), "'outputs/no/model' does not exist"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value) or "nothing",
)
def test_wrong_input_is_named(arguments, message, tmp_path):
    model = config_file(tmp_path, LLAMA)
    result = run(*(model if argument == "MODEL" else argument for argument in arguments))
    assert isinstance(result.exception, (ValueError, OSError))
    assert message in str(result.exception)
