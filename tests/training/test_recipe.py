# SPDX-License-Identifier: Apache-2.0
"""Recipes: the thesis's defaults, overrides, the way to YAML and back, and what wrong recipes say."""

from __future__ import annotations

import re

import pytest
import yaml

from hylora.language.recipe import LanguageRecipe
from hylora.training.recipe import RecipeError
from hylora.training.recipe_loading import recipe_keys

MINIMAL = """
model: {path: some/model}
data:
  sources:
    - {path: text.txt}
output: {path: out/run}
"""


@pytest.fixture
def load(tmp_path):
    def load(*overrides, text=MINIMAL):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return LanguageRecipe.load(path, overrides)

    return load


def test_defaults_are_the_thesis(load):
    recipe = load()
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (2e-4, 0.0)
    assert (recipe.optimizer.schedule.name, recipe.optimizer.schedule.warmup_steps) == ("constant", 20)
    assert (recipe.training.steps, recipe.training.global_batch_size) == (1000, 64)
    assert recipe.training.sequence_length == 8192
    assert (recipe.attention.block_size, recipe.attention.top_k, recipe.attention.window) == (32, 8, 4096)
    assert recipe.attention.chunk_size == (2048, 4096)
    assert (recipe.adapter.variant, recipe.adapter.r, recipe.adapter.lora_alpha) == ("hylora", 32, 64)
    assert recipe.data.packing == "eos"


def test_shifted_sparse_attention_has_a_lower_rate_unless_given(load):
    assert load("attention.name=s2_attn").optimizer.lr == 2e-5
    assert load("attention.name=s2_attn", "optimizer.lr=1e-3").optimizer.lr == 1e-3


def test_saved_recipe_reads_back_equal(load, tmp_path):
    recipe = load(
        "model.rope={type: yarn, factor: 4, beta_fast: 16}",
        "optimizer.schedule={name: piecewise, points: [[0, 1], [0.5, 0.1]]}",
        "model.freeze=[A_log]",
        "attention.group=64",
    )
    recipe.save(tmp_path / "again.yaml")
    assert LanguageRecipe.load(tmp_path / "again.yaml") == recipe


def test_overrides_are_typed_like_yaml(load):
    recipe = load(
        "optimizer.lr=2e-5",
        "training.steps=7",
        "training.resume=true",
        "attention.chunk_size=[64, 128]",
        "model.revision='1'",
        "data.sources.0.path=other.txt",
        "data.sources.1.path=appended.txt",
        "optimizer.max_grad_norm=null",
    )
    assert recipe.optimizer.lr == 2e-5 and recipe.training.steps == 7 and recipe.training.resume is True
    assert recipe.attention.chunk_size == (64, 128)
    assert recipe.model.revision == "1"
    assert [source.path for source in recipe.data.sources] == ["other.txt", "appended.txt"]
    assert recipe.optimizer.max_grad_norm is None


@pytest.mark.parametrize(("value", "kind"), [("1", int), ("0.5", float), ("1.0", float)])
def test_integer_and_fraction_stay_apart(load, value, kind):
    """One token and the whole sequence are different groups of shifted sparse attention."""
    assert type(load(f"attention.group={value}").attention.group) is kind


# Each wrong recipe: overrides, and what the message must hold.
WRONG = {
    "misspelt section": (["trainig.steps=3"], ["trainig=", "nearest valid key is training"]),
    "misspelt key": (
        ["optimizer.beta=[0.9, 0.95]"],
        ["optimizer.beta=[0.9, 0.95]", "optimizer.betas ([float, float])"],
    ),
    "key of another section": (["training.lr=1"], ["training.lr=1", "optimizer.lr (float | null)"]),
    "misspelt key of a source": (["data.sources.0.paht=a"], ["data.sources.0.paht='a'", "data.sources.0.path (str)"]),
    "misspelt nested key": (["optimizer.schedule.warm_up=1"], ["optimizer.schedule.warmup_steps (int)"]),
    "text for a number": (["optimizer.lr=fast"], ["optimizer.lr='fast'", "str", "float | null"]),
    "fraction for an integer": (["training.steps=1.5"], ["training.steps=1.5", "float", "expected int"]),
    "boolean for an integer": (["training.steps=true"], ["training.steps=True", "bool", "expected int"]),
    "number for text": (["output.path=2024"], ["output.path=2024", "expected str", "quotes"]),
    "number for a boolean": (["training.resume=1"], ["training.resume=1", "expected bool"]),
    "scalar for a section": (["training=5"], ["training=5", "not a mapping"]),
    "too many betas": (["optimizer.betas=[0.9, 0.95, 0.99]"], ["optimizer.betas", "[float, float]"]),
    "wrong item of a list": (["model.freeze=[A_log, 3]"], ["model.freeze.1=3", "expected str"]),
    "unknown attention": (["attention.name=se_atn"], ["attention.name='se_atn'", "nearest is se_attn"]),
    "unknown tracker": (["tracking.trackers=[tensorbord]"], ["tracking.trackers.0", "nearest is tensorboard"]),
    "negative rate": (["optimizer.lr=-1.0"], ["optimizer.lr=-1.0 must be positive"]),
    "endless rate": (["optimizer.lr=.inf"], ["optimizer.lr=inf must be positive and finite"]),
    "negative eps": (["optimizer.eps=-1.0"], ["optimizer.eps=-1.0 must be finite and not negative"]),
    "decay that is no number": (["optimizer.weight_decay=.nan"], ["optimizer.weight_decay=nan must be finite"]),
    "no steps": (["training.steps=0"], ["training.steps=0 must be at least 1"]),
    "batches that do not divide": (["training.batch_size=5"], ["training.global_batch_size=64", "batch_size=5"]),
    "block larger than chunk": (
        ["attention.block_size=8192"],
        ["attention.block_size=8192 is larger than chunk_size"],
    ),
    "milestones out of order": (
        ["optimizer.schedule={name: multi_step, milestones: [0.5, 0.2]}"],
        ["optimizer.schedule.milestones=[0.5, 0.2] must be ascending"],
    ),
    "rope that compresses nothing": (["model.rope={factor: 0.5}"], ["model.rope.factor=0.5 must be at least 1"]),
    "adapter on random weights": (
        ["model={from_scratch: true, config: {model_type: llama}, tokenizer: t}"],
        ["adapter.variant='hylora'", "adapter.variant=none"],
    ),
    "training in bfloat16": (
        ["model.dtype=bfloat16", "adapter.variant=none"],
        ["model.dtype='bfloat16'", "training.mixed_precision=bf16"],
    ),
    "nothing to evaluate on": (["evaluation.every=10"], ["evaluation.every=10", "data.validation_fraction"]),
    "no model": (["model.path=null"], ["model.path is missing"]),
    "from scratch without a config": (["model.from_scratch=true"], ["model.from_scratch=True needs model.config"]),
    "weight on one source only": (
        ["data.sources=[{path: a, weight: 1}, {path: b}]"],
        ["data.sources.1.weight"],
    ),
    "no source": (["data.sources=[]"], ["data.sources"]),
    "an override without a value": (["training.steps"], ["'training.steps'", "key=value"]),
    "an override into a scalar": (["model.path.x=1"], ["path='some/model'", "has no keys"]),
    "an index past the end": (["data.sources.5.path=a"], ["'5' is not an index from 0 to 1"]),
    "an override that is not YAML": (["optimizer.betas=[0.9"], ["optimizer.betas=[0.9", "not valid YAML"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_recipe_says_what_to_write(load, case):
    overrides, fragments = WRONG[case]
    with pytest.raises(RecipeError) as caught:
        load(*overrides)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must be a mapping of sections, not list"),
        ("model: {path: a\n", "not valid YAML"),
        ("model: {path: a}\nmodel: {path: b}\n", "'model' is given twice"),
        ("model: !!python/object:os.system {}\n", "not valid YAML"),
        ("model: {path: a}\ndata: {sources: [{path: a}]}\n", "output is missing"),
        ("model: {path: a}\noutput: {path: a}\ndata: {sources: [{split: a}]}\n", "data.sources.0.path is missing"),
    ],
)
def test_wrong_file_is_explained(load, text, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load(text=text)


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        LanguageRecipe.load(tmp_path / "absent.yaml")


def test_rates_need_neither_dot_nor_sign(load):
    """Plain YAML 1.1 would read all of these as text."""
    for text in ("2e-4", "1e3", "2.5e-4", "1E-2"):
        assert load(f"optimizer.lr={text}").optimizer.lr == float(text)


def test_mappings_can_be_merged(load):
    validation = "{<<: &common {text_field: body, split: test}, path: a}, {<<: *common, path: b, split: train}"
    recipe = load(text=MINIMAL.replace("output:", f"  validation: [{validation}]\noutput:"))
    found = [(source.path, source.text_field, source.split) for source in recipe.data.validation]
    assert found == [("a", "body", "test"), ("b", "body", "train")]


def test_every_key_of_the_whole_tree_is_known(load):
    """The list of keys that errors search is the list of keys that a saved recipe has."""

    def flatten(tree, key=""):
        for name, value in tree.items():
            full = f"{key}.{name}" if key else name
            yield full
            if isinstance(value, dict):
                yield from flatten(value, full)
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                yield from flatten(value[0], f"{full}.N")

    saved = set(flatten(yaml.safe_load(yaml.safe_dump(load("model.rope={}").to_tree()))))
    assert saved <= set(recipe_keys(LanguageRecipe))
    # Validation sources are the one part that a minimal recipe lacks.
    assert all(key.startswith("data.validation.N.") for key in set(recipe_keys(LanguageRecipe)) - saved)
