# SPDX-License-Identifier: Apache-2.0
"""What ships beside the code: recipes, launch configurations, and the page about training."""

from __future__ import annotations

import re

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from hylora.attention import SpanConfig
from hylora.language import LanguageRecipe
from hylora.language.reference import key_table, update_page
from hylora.training.recipe_loading import recipe_keys
from tests.pages import ROOT, page

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CONFIGURATIONS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
TABLE, GUIDE = "docs/reference/recipe.md", "docs/guides/fine_tune.md"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_load(path):
    recipe = LanguageRecipe.load(path)
    assert recipe.output.path.endswith(path.stem)


@pytest.mark.parametrize(
    ("name", "tokens"), [("bamba_8k", 8192), ("bamba_8k_language_code", 8192), ("llama_16k", 16384)]
)
def test_recipes_of_the_thesis_see_half_a_billion_tokens(name, tokens):
    training = LanguageRecipe.load(ROOT / "recipes" / f"{name}.yaml").training
    assert training.sequence_length == tokens
    assert training.steps * training.global_batch_size * training.sequence_length == 524_288_000


def test_shipped_hybrid_recipe_is_the_thesis_but_for_the_retrieval():
    """Spelling values out must not change them."""
    shipped = LanguageRecipe.load(ROOT / "recipes" / "bamba_8k.yaml")
    assert shipped.attention.span == SpanConfig.preset("recall")
    sections = {name: getattr(shipped, name) for name in ("model", "data", "output", "evaluation", "attention")}
    assert shipped == LanguageRecipe(**sections)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_launch_configurations_are_accelerates(path):
    """accelerate refuses keys that it does not know."""
    assert load_config_from_file(str(path)).num_processes in (1, 8)


def test_every_key_is_described():
    table = key_table()
    for key in recipe_keys(LanguageRecipe):
        if not key.startswith("data.validation."):
            assert f"`{key}`" in table, key


def test_the_page_is_up_to_date():
    text = page(TABLE)
    assert text == update_page(text), f"run python -m hylora.language.reference {TABLE}"


def test_the_page_names_what_exists():
    text = page(GUIDE)
    for name in re.findall(r"recipes/[\w/]+\.yaml", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"^\| `(\w+\.yaml)` \|", text, flags=re.MULTILINE)[1:]:
        assert (ROOT / "recipes" / "accelerate" / name).is_file(), name
