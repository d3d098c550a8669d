# SPDX-License-Identifier: Apache-2.0
"""`hylora audit` from the command line."""

import json
from functools import partial

import pytest
import yaml
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from hylora.adapters import HyLoraConfig, add_adapter
from hylora.auditing import opening
from hylora.auditing.opening import open_model
from hylora.runs.manifest import RunManifest
from tests import command_line
from tests.architectures.zoo import ZOO
from tests.pages import ROOT
from tests.planning.tiny_plans import BAMBA, LLAMA, config_file, tiny_recipe

run = partial(command_line.run, "audit", env={"COLUMNS": "160"})


def only(*names):
    return [word for name in names for word in ("--ask", name)]


def test_a_config_is_audited_in_miniature(tmp_path):
    written = tmp_path / "audit.json"
    model = config_file(tmp_path, {**BAMBA, "vocab_size": 1000})
    result = run(model, *only("packed", "padded_left"), "--json", written)
    assert result.exit_code == 3, result.output
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
    assert result.exit_code == 3, result.output
    assert "hylora.merge_adapter" in result.output
    assert "1 yes, 1 no" in result.output


@pytest.mark.parametrize("small", [False, True], ids=["its weights", "small"])
def test_an_adapter_of_the_hub_is_read_at_its_revision_and_its_base_at_its_own(tmp_path, monkeypatch, small):
    model = get_peft_model(ZOO["llama"].build(), LoraConfig(r=2, target_modules=["q_proj"], revision="of-the-base"))
    model.peft_config["default"].base_model_name_or_path = "owner/base"
    model.save_pretrained(tmp_path / "adapter")
    config = ZOO["llama"].build().config
    read = []

    def from_hub(kind, known):
        """Notes what is asked of the hub, and gives what is known."""

        def from_pretrained(*arguments, revision=None, **others):
            read.append((kind.__name__, *(name for name in arguments if isinstance(name, str)), revision))
            return known(*arguments)

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)

    adapter = PeftConfig.from_pretrained(tmp_path / "adapter")
    from_hub(PeftConfig, lambda name: adapter)
    from_hub(LoraConfig, lambda name: adapter)
    from_hub(PeftModel, lambda base, name: get_peft_model(base, adapter))
    from_hub(AutoConfig, lambda name: config)
    from_hub(AutoModelForCausalLM, lambda name: ZOO["llama"].build())
    monkeypatch.setattr(opening, "find_folder", lambda name, revision: tmp_path / "adapter")
    open_model("owner/adapter", small=small, revision="v2")
    assert {(name, revision) for _, name, revision in read} == {("owner/adapter", "v2"), ("owner/base", "of-the-base")}
    last = {"AutoConfig", "LoraConfig"} if small else {"AutoModelForCausalLM", "PeftModel"}
    assert {kind for kind, *_ in read} == {"PeftConfig", *last}


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (("--revision", "v2"), ("owner/one", "v2")),
        (("owner/two",), ("owner/two", None)),
        (("owner/two", "--revision", "v2"), ("owner/two", "v2")),
    ],
    ids=["a revision", "a model", "both"],
)
def test_a_revision_replaces_that_of_a_recipe(arguments, model, tmp_path, monkeypatch):
    recipe, opened = tmp_path / "recipe.yaml", []
    tree = tiny_recipe(tmp_path, LLAMA, model={"path": "owner/one", "revision": "v1"}).to_tree()
    recipe.write_text(yaml.safe_dump(tree))
    monkeypatch.setattr("hylora.runs.whereabouts.find_folder", lambda *asked: opened.append(asked))
    monkeypatch.setattr("hylora.auditing.opening.open_recipe", lambda recipe, small: opened.append(recipe.model))
    run("--recipe", recipe, *arguments)
    assert opened[0] == (opened[1].path, opened[1].revision) == model


def test_a_recipe_may_stand_for_the_model(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(tmp_path, LLAMA).to_tree()))
    result = run(recipe, "--small", *only("packed"))
    assert result.exit_code == 0, result.output
    assert "of the recipe" in result.output


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
        (("MODEL", "--attention", "se_attn", "--attention-option", "topk=4"), "did you mean 'top_k'"),
        (("MODEL", "--device", "foo"), "'foo' is not a device"),
        (("MODEL", "--revision", "v1"), "'v1' is for hub models"),
        (("MODEL", "--json", "nowhere/x.json"), "make the folder 'nowhere' first"),
        (("outputs/no/model",), "'outputs/no/model' does not exist"),
        (("DIGITS",), "audits are of language models"),
        (("nowhere.yaml",), "cannot read the recipe 'nowhere.yaml'"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value) or "nothing",
)
def test_wrong_input_is_named(arguments, message, tmp_path, monkeypatch):
    # Before anything is read of a model.
    monkeypatch.setattr("hylora.auditing.opening.open_model", None)
    files = {"MODEL": config_file(tmp_path, LLAMA), "DIGITS": ROOT / "recipes/vision/digits.yaml"}
    result = run(*(files.get(argument, argument) for argument in arguments))
    assert isinstance(result.exception, (ValueError, OSError))
    assert message in str(result.exception)
