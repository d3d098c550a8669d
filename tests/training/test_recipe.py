# SPDX-License-Identifier: Apache-2.0
"""Recipes: the thesis's defaults, overrides, the way to YAML and back, and what wrong recipes say."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hylora.attention import SpanConfig
from hylora.language.recipe import AttentionRecipe, LanguageRecipe
from hylora.language.reference import key_table
from hylora.training.fields import check_range
from hylora.training.recipe import LoopRecipe, OptimizerRecipe, Recipe, RecipeError, ScheduleRecipe
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


def test_a_preset_fills_in_what_the_recipe_does_not_give(load, tmp_path):
    recipe = load("attention.preset=recall", "attention.top_k=8")
    assert (recipe.attention.name, recipe.attention.preset) == ("se_attn", "recall")
    assert recipe.attention.span == SpanConfig.preset("recall", top_k=8)
    assert load("attention.name=se_attn_recall", "attention.top_k=8") == recipe
    recipe.save(tmp_path / "saved.yaml")
    assert LanguageRecipe.load(tmp_path / "saved.yaml") == recipe
    with pytest.raises(RecipeError, match=r"attention.preset=.recal. must be published \| recall"):
        load("attention.preset=recal")
    with pytest.raises(RecipeError, match=r"attention.preset=\[.recall.\] must be published"):
        load("attention.preset=[recall]")


def test_a_preset_beside_options_that_contradict_it_is_refused(load, tmp_path):
    """As in a saved recipe, which gives them all."""
    load().save(tmp_path / "saved.yaml")
    for override in ("attention.preset=recall", "attention.name=se_attn_recall"):
        with pytest.raises(RecipeError, match=r"attention.selection=.chunk. contradicts .recall., .* leave it out"):
            LanguageRecipe.load(tmp_path / "saved.yaml", [override])
    with pytest.raises(ValueError, match="contradicts 'recall'"):
        AttentionRecipe(preset="recall")


def test_saved_recipe_reads_back_equal(load, tmp_path):
    recipe = load(
        "model.rope={type: yarn, factor: 4, beta_fast: 16}",
        "optimizer.schedule={name: piecewise, points: [[0, 1], [0.5, 0.1]]}",
        "model.freeze=[A_log]",
        "attention.group=64",
    )
    recipe.save(tmp_path / "again.yaml")
    assert LanguageRecipe.load(tmp_path / "again.yaml") == recipe


def test_infinity_in_a_models_configuration_survives(load, tmp_path):
    """Mamba-2 has one in `time_step_limit`."""
    model = "model={from_scratch: true, tokenizer: t, config: {model_type: mamba2, time_step_limit: [0.0, .inf]}}"
    recipe = load(model, "adapter.variant=none")
    assert recipe.model.config["time_step_limit"] == [0.0, float("inf")]
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
    "text for a number": (["optimizer.lr=fast"], ["optimizer.lr='fast' must be float | null"]),
    "fraction for an integer": (["training.steps=1.5"], ["training.steps=1.5 must be int"]),
    "boolean for an integer": (["training.steps=true"], ["training.steps=True must be int"]),
    "number for text": (["output.path=2024"], ["output.path=2024 must be str; put quotes around it"]),
    "digits of a revision": (["model.revision=1234567"], ["model.revision=1234567 must be str | null; put quotes"]),
    "number for a boolean": (["training.resume=1"], ["training.resume=1 must be bool"]),
    "scalar for a section": (["training=5"], ["training=5 must be a mapping"]),
    "too many betas": (
        ["optimizer.betas=[0.9, 0.95, 0.99]"],
        ["optimizer.betas=[0.9, 0.95, 0.99] must be [float, float]"],
    ),
    "wrong item of a list": (["model.freeze=[A_log, 3]"], ["model.freeze.1=3 must be str"]),
    "unknown attention": (
        ["attention.name=se_atn"],
        ["attention.name='se_atn' must be se_attn | sw_attn", "nearest is se_attn"],
    ),
    "unknown tracker": (
        ["tracking.trackers=[tensorbord]"],
        ["tracking.trackers.0='tensorbord'", "nearest is tensorboard"],
    ),
    "negative rate": (["optimizer.lr=-1.0"], ["optimizer.lr=-1.0 must be above 0"]),
    "endless rate": (["optimizer.lr=.inf"], ["optimizer.lr=inf must be finite"]),
    "negative eps": (["optimizer.eps=-1.0"], ["optimizer.eps=-1.0 must be above 0"]),
    "decay that is no number": (["optimizer.weight_decay=.nan"], ["optimizer.weight_decay=nan must be finite"]),
    "eps of nothing": (["optimizer.eps=0"], ["optimizer.eps=0.0 must be above 0"]),
    "endless clipping": (["optimizer.max_grad_norm=.inf"], ["optimizer.max_grad_norm=inf must be finite"]),
    "number past all floats": (["optimizer.lr=" + "9" * 400], ["optimizer.lr=999", " must be "]),
    "betas of one": (["optimizer.betas=[0.9, 1]"], ["optimizer.betas=(0.9, 1.0) must be at least 0 and below 1"]),
    "rising without end": (
        ["optimizer.schedule={name: piecewise, points: [[0, .inf]]}"],
        ["optimizer.schedule.points.0.1=inf must be finite"],
    ),
    "negative point": (
        ["optimizer.schedule={name: piecewise, points: [[0, -1]]}"],
        ["optimizer.schedule.points=((0.0, -1.0),) must have factors that are finite and not negative"],
    ),
    "negative end": (
        ["optimizer.schedule={name: linear, final: -0.1}"],
        ["optimizer.schedule.final=-0.1 must be at least 0"],
    ),
    "endless factor": (
        ["optimizer.schedule={name: multi_step, milestones: [0.5], factor: .inf}"],
        ["optimizer.schedule.factor=inf must be finite"],
    ),
    "rope without end": (["model.rope={factor: .nan}"], ["model.rope.factor=nan must be finite"]),
    "wrong item of an alternative": (
        ["attention.chunk_size=[64, many]"],
        ["attention.chunk_size.1='many' must be int"],
    ),
    "list for a mapping or text": (["model.config=[1]"], ["model.config=[1] must be mapping | str | null"]),
    "date for a number": (["training.steps=2024-01-01"], ["training.steps='2024-01-01' must be int"]),
    "time for a number": (["training.steps=1:30"], ["training.steps='1:30' must be int"]),
    "no steps": (["training.steps=0"], ["training.steps=0 must be at least 1"]),
    "batches that do not divide": (["training.batch_size=5"], ["training.global_batch_size=64", "batch_size=5"]),
    "block larger than chunk": (
        ["attention.block_size=8192"],
        ["attention.block_size=8192 must be at most chunk_size=2048"],
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
    "from scratch without a config": (
        ["model.from_scratch=true"],
        ["model.from_scratch=True must come with model.config"],
    ),
    "weight on one source only": (
        ["data.sources=[{path: a, weight: 1}, {path: b}]"],
        ["data.sources.1.weight=None must be a number", "all of them"],
    ),
    "no source": (["data.sources=[]"], ["data.sources=[] must have at least one source"]),
    "wrong source": (["data.sources.0.max_documents=0"], ["data.sources.0.max_documents=0 must be at least 1"]),
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


# Settings that the chosen optimizer or schedule does not read.
UNREAD = {
    "momentum": (["optimizer.momentum=0.9"], "optimizer.momentum=0.9 must be left out; name='adamw'"),
    "momentum of 8 bits": (["optimizer={name: adamw_8bit, momentum: 0.9}"], "optimizer.momentum=0.9"),
    "betas": (["optimizer={name: sgd, betas: [0.9, 0.99]}"], "optimizer.betas=(0.9, 0.99)"),
    "eps": (["optimizer={name: sgd, eps: 1e-6}"], "optimizer.eps=1e-06"),
    "final": (["optimizer.schedule.final=0.1"], "optimizer.schedule.final=0.1 must be left out; name='constant'"),
    "power": (["optimizer.schedule={name: cosine, power: 3}"], "optimizer.schedule.power=3.0"),
    "milestones": (["optimizer.schedule={name: linear, milestones: [0.5]}"], "optimizer.schedule.milestones=(0.5,)"),
    "factor": (["optimizer.schedule={name: linear, factor: 0.5}"], "optimizer.schedule.factor=0.5"),
    "points": (["optimizer.schedule={name: linear, points: [[0, 1]]}"], "optimizer.schedule.points=((0.0, 1.0),)"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_settings_that_nothing_reads_are_refused(load, case):
    overrides, message = UNREAD[case]
    with pytest.raises(RecipeError, match=re.escape(message)):
        load(*overrides)


def test_defaults_may_be_spelt_out_where_nothing_reads_them(load):
    load("optimizer={name: sgd, betas: [0.9, 0.95], eps: 1e-8, momentum: 0.9}", "optimizer.schedule.final=0")


def test_sections_made_in_python_are_checked_too():
    for make, message in (
        (lambda: OptimizerRecipe(eps=0.0), "eps=0.0 must be above 0"),
        (lambda: OptimizerRecipe(lr=float("nan")), "lr=nan must be finite"),
        (lambda: OptimizerRecipe(name="adam"), "name='adam' must be adamw | sgd | adamw_8bit; the nearest is adamw"),
        (lambda: ScheduleRecipe(name="linear", final=float("inf")), "final=inf must be finite"),
        (lambda: ScheduleRecipe(power=3.0), "power=3.0 must be left out; name='constant'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            make()


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


# What YAML allows and a recipe cannot hold; each was a traceback or did not end.
FAULTS = {
    "a list as a key": ("[a, b]: c", "a key that is a list or a mapping"),
    "a mapping as a key": ("? {a: b}\n: c", "a key that is a list or a mapping"),
    "an integer that is none": ("a: !!int abc", "not valid YAML"),
    "a boolean that is none": ("a: !!bool abc", "not valid YAML"),
    "a number of nothing": ("a: !!float ''", "not valid YAML"),
    "a number for a list": ("a: !!int []", "not read"),
    "a merge of text": ("a: {<<: text}", "not valid YAML"),
    "a date by its tag": ("a: !!timestamp abc", "not read"),
    "too many digits": ("a: " + "9" * 5000, "not valid YAML"),
    "a NUL": ('a: "x\\0"', "a NUL character"),
    "half a character": ('a: "\\ud800"', "not valid YAML"),
    "a mapping in itself": ("a: &a {b: *a}", "nested too deeply"),
    "a mapping merged into itself": ("a: &a {<<: *a}", "nested too deeply"),
    "a bomb of aliases": (
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)),
        "more than 100000 values once aliases are written out",
    ),
    "a bomb of merges": (
        "a0: &a0 {x: x}\n" + "".join(f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 10}]}}\n" for i in range(1, 30)),
        "more than 100000 values once aliases are written out",
    ),
    "lists without end": ("a: " + "[" * 5000, "nested too deeply"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_yaml_are_explained(load, case):
    text, message = FAULTS[case]
    with pytest.raises(RecipeError, match=message):
        load(text=text)


def test_faults_of_overrides_are_explained(load):
    for override in ("training.steps=" + "9" * 5000, "model.path=!!int abc", "data.sources." + "9" * 5000 + "=1"):
        with pytest.raises(RecipeError, match="in the override|of the override"):
            load(override)
    with pytest.raises(RecipeError, match="cannot be read"):
        load(".".join("a" * 5000) + "=1")


@pytest.mark.parametrize("path", ["nul\0.yaml", ".", "/dev/null/recipe.yaml"])
def test_a_file_that_cannot_be_read_is_explained(path):
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        LanguageRecipe.load(path)


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        LanguageRecipe.load(tmp_path / "absent.yaml")


def test_rates_need_neither_dot_nor_sign(load):
    """Plain YAML 1.1 would read all of these as text."""
    for text in ("2e-4", "1e3", "2.5e-4", "1E-2"):
        assert load(f"optimizer.lr={text}").optimizer.lr == float(text)


def test_scalars_are_those_of_todays_yaml(load):
    """YAML 1.1 would read 8, 90, false and a date."""
    recipe = load(
        "training.steps=010", "tracking.project=1:30", "data.sources.0.subset=no", "model.revision=2024-01-01"
    )
    assert recipe.training.steps == 10
    assert (recipe.tracking.project, recipe.data.sources[0].subset) == ("1:30", "no")
    assert recipe.model.revision == "2024-01-01"


def test_home_is_found_in_paths(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    keys = ("output.path", "model.path", "model.tokenizer", "data.sources.0.path", "data.cache_dir")
    tree = load("data.validation=[{path: ~/b}]", *(f"{key}=~/a" for key in keys)).to_tree()
    for key in keys:
        node = tree
        for part in key.split("."):
            node = node[int(part) if part.isdecimal() else part]
        assert node == "/home/me/a", key
    assert tree["data"]["validation"][0]["path"] == "/home/me/b"


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example(text="12e4567")
@example(text="08")
@example(text="no")
@example(text="1:30")
@example(text="2024-01-01")
@example(text="<<")
@example(text="0x1F")
@example(text=".5")
def test_any_text_survives_saving(text):
    recipe = LanguageRecipe.from_tree(
        {
            "model": {"tokenizer": "t", "from_scratch": True, "config": {text: text, "list": [text, 1, 0.5, None]}},
            "adapter": {"variant": "none"},
            "data": {"sources": [{"path": "a", "subset": text}]},
            "output": {"path": "o"},
        }
    )
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        recipe.save(file.name)
        assert LanguageRecipe.load(file.name) == recipe


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


@dataclass(frozen=True, kw_only=True)
class ImagesRecipe:
    """Pictures.

    Args:
        sizes: of pictures over training.
        noise: for each channel.
        shifts: of colours over training.
    """

    sizes: tuple[int, ...] = (32,)
    noise: dict[str, float] = field(default_factory=dict)
    shifts: dict[str, ScheduleRecipe] = field(default_factory=dict)

    def __post_init__(self):
        check_range(self, "sizes", least=8)


@dataclass(frozen=True, kw_only=True)
class VisionRecipe(Recipe):
    """A run on pictures.

    Args:
        task: `vision`.
        images: pictures to train on.
        held_out: pictures to evaluate on.
    """

    task: Literal["vision"] = "vision"
    images: ImagesRecipe
    held_out: ImagesRecipe | None = None


def test_any_task_can_have_a_recipe(tmp_path):
    tree = {"images": {"sizes": [8, 16], "noise": {"red": 1}}, "output": {"path": "o"}, "optimizer": {"name": "sgd"}}
    recipe = VisionRecipe.from_tree(tree)
    assert recipe.images.sizes == (8, 16) and type(recipe.images.noise["red"]) is float
    assert recipe.optimizer == OptimizerRecipe(name="sgd") and recipe.training == LoopRecipe()
    recipe.save(tmp_path / "recipe.yaml")
    assert VisionRecipe.load(tmp_path / "recipe.yaml") == recipe
    for override, message in (
        ("images.sizes=[8, 4]", "images.sizes=(8, 4) must be at least 8"),
        ("images.size=8", "unknown key images.size=8; the nearest valid key is images.sizes (list of int)"),
        ("images.noise.red=much", "images.noise.red='much' cannot be read: Input should be a valid number"),
        ("images.shifts.hue={name: linear, final: -1}", "images.shifts.hue: final=-1.0 must be at least 0"),
        ("images.shifts.hue={nam: linear}", "images.shifts.hue.nam='linear'"),
        ("task=language", "task='language' must be vision"),
        ("held_out=5", "held_out=5 must be a mapping"),
    ):
        with pytest.raises(RecipeError, match=re.escape(message)):
            VisionRecipe.load(tmp_path / "recipe.yaml", [override])


def test_any_recipe_has_a_table():
    table = key_table(VisionRecipe)
    assert "| `images.sizes` | list of int | `[32]` | of pictures over training. |" in table
    assert table.endswith("#### `held_out`\n\nPictures to evaluate on.\n\nThe keys of `images`.")


def test_choices_are_checked_in_python_too():
    with pytest.raises(ValueError, match=r"mixed_precision='fp16' must be auto \| bf16 \| float32"):
        LoopRecipe(mixed_precision="fp16")
