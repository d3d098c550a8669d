# SPDX-License-Identifier: Apache-2.0
"""`hylora plan` from the command line."""

import json
from functools import partial

import pytest
import yaml

from tests import command_line
from tests.planning.tiny_plans import BAMBA, WINDOWED, config_file, tiny_recipe

run = partial(command_line.run, "plan", env={"COLUMNS": "160"})


def test_a_model_is_planned(tmp_path):
    written = tmp_path / "plan.json"
    model = config_file(tmp_path, BAMBA)
    result = run("--model", model, "--gpus", "1x2.2GB", "--r", 4, "--json", written, "attention.chunk_size=4096")
    assert result.exit_code == 0, result.output
    # What is known first is said first, and what takes long says what it is at.
    said = [
        "Parameters",
        "Trying a step",
        "Memory of each GPU",
        "Operations per token, in MFLOP",
        "full attention takes",
    ]
    said += ["It fits on 1x2.2GB", "Looking for the longest context", "The longest context that fits"]
    places = [result.output.find(text) for text in said]
    assert -1 not in places and places == sorted(places), result.output
    assert "wait on the host" not in result.output
    plan = json.loads(written.read_text())
    assert plan["fits"] is True
    assert plan["recipe"]["training"]["sequence_length"] == 8192
    assert plan["recipe"]["attention"]["chunk_size"] == 4096
    assert (plan["recipe"]["adapter"]["r"], plan["recipe"]["adapter"]["lora_alpha"]) == (4, 8)
    assert plan["parameters"]["convs"]["trained"] == (64 + 2 * 16) * 5
    assert plan["memory"]["total"] == sum(plan["memory"]["parts"].values())
    assert plan["memory"]["highest"]["attention"] >= plan["memory"]["parts"].get("attention", 0)


def test_without_a_search_nothing_is_said_of_other_contexts(tmp_path):
    written = tmp_path / "plan.json"
    options = ("--context", 300, "--offload", "--no-search", "--json", written)
    result = run("--model", config_file(tmp_path, BAMBA), "--gpus", "2x24GB", *options)
    assert result.exit_code == 0, result.output
    assert "longest" not in result.output
    assert "2 inputs of layers" in result.output and "for each of the 2 GPUs" in result.output
    plan = json.loads(written.read_text())
    assert plan["longest_context"] is None
    assert plan["memory"]["pinned"] >= sum(plan["memory"]["offloaded"]) > 0
    full = plan["full_attention"]
    assert full["compared_with"] == "se_attn" and 0 < full["share_of_step"] < 1


def test_windows_of_the_models_own_are_told(tmp_path):
    options = ("--context", 300, "--no-search", "adapter.variant=longlora")
    result = run("--model", config_file(tmp_path, WINDOWED), "--gpus", "1x24GB", *options)
    assert result.exit_code == 0, result.output
    assert "2 of 4 attention layers have a sliding window of their own" in " ".join(result.output.split())


@pytest.mark.parametrize("named", [["--recipe"], []], ids=["by option", "as train takes it"])
def test_a_recipe_is_planned_and_options_replace_its_settings(tmp_path, named):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(tmp_path, BAMBA).to_tree()))
    written = tmp_path / "plan.json"
    options = ("--attention", "full", "--no-gradient-checkpointing", "--optimizer", "sgd", "--json", written)
    result = run(*named, recipe, "adapter.r=2", "--gpus", "1x2GB", *options)
    assert result.exit_code == 0, result.output
    # So small a GPU is all reserve, and no change of one setting helps.
    for text in (
        "It does not fit on 1x2GB",
        "No context of 1,024 tokens or more fits",
        "training.gradient_checkpointing=true",
    ):
        assert text in result.output
    plan = json.loads(written.read_text())
    assert plan["recipe"]["attention"]["name"] == "full"
    assert plan["recipe"]["adapter"]["r"] == 2
    assert plan["recipe"]["training"]["gradient_checkpointing"] is False
    assert plan["recipe"]["training"]["mixed_precision"] == "float32"
    assert "optimizer state" not in plan["memory"]["parts"]
    assert plan["operations_per_token"]["total"]["recomputation"] == 0
    assert plan["longest_context"] == 0
    assert not any(item["fits"] for item in plan["advice"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "must be one of the two"),
        (("--model", "MODEL", "--recipe", "x.yaml"), "must be one of the two"),
        (("x.yaml", "--model", "MODEL"), "must be one of the two"),
        (("nowhere.yaml",), "cannot read the recipe 'nowhere.yaml'"),
        (("--model", "MODEL", "--gpus", "eight"), "1x80GB"),
        (("--model", "MODEL", "--context", "0"), "context=0 must be at least 2"),
        (("--model", "MODEL", "--precision", "fp8"), "precision='fp8' must be one of bf16, fp32"),
        (("--model", "MODEL", "--attention", "se_atn"), "attention.name='se_atn'"),
        (("--model", "MODEL", "--sharding", "fsdp"), "more than one GPU"),
        (("--model", "MODEL", "trainin.steps=3"), "trainin"),
        (("--model", "/nowhere/config.json"), "'/nowhere/config.json' does not exist"),
        (("--model", "outputs/no/model"), "'outputs/no/model' does not exist"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value) or "nothing",
)
def test_wrong_input_is_named(arguments, message, tmp_path):
    model = config_file(tmp_path, BAMBA)
    result = run(*(model if argument == "MODEL" else argument for argument in arguments))
    assert isinstance(result.exception, (ValueError, OSError))
    assert message in str(result.exception)
