# SPDX-License-Identifier: Apache-2.0
"""The recipes of the demo: they are read, and say what the demo and the model card say."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

from hylora.attention import SpanConfig
from hylora.demo.build import STAGES
from hylora.demo.miniature import ASSETS, CONTEXT
from hylora.language import LanguageRecipe
from hylora_eval.demo.settings import MIXTURE, VARIANTS, DemoSettings

RECIPES = Path(__file__).parents[2] / "recipes" / "demo"


@pytest.mark.parametrize("name", STAGES)
def test_stages_train_the_shipped_context_with_frozen_decay(name):
    recipe = LanguageRecipe.load(RECIPES / f"{name}.yaml")
    assert recipe.training.sequence_length == CONTEXT
    assert recipe.model.freeze == ("A_log",)


def test_demo_mixes_as_the_third_stage_does():
    sources = LanguageRecipe.load(RECIPES / "3_facts.yaml").data.sources
    assert {Path(source.path).stem: source.weight for source in sources} == MIXTURE


def test_first_stage_describes_the_shipped_model():
    described = dict(LanguageRecipe.load(RECIPES / "1_recall.yaml").model.config)
    shipped = AutoConfig.from_pretrained(ASSETS).to_dict()
    assert described.pop("model_type") == shipped["model_type"]
    assert {name: shipped[name] for name in described} == {
        name: tuple(value) if isinstance(shipped[name], tuple) else value for name, value in described.items()
    }


def test_stretch_is_one_of_the_demos_runs():
    recipe = LanguageRecipe.load(RECIPES / "stretch.yaml")
    settings = DemoSettings()
    tuned = next(variant for variant in VARIANTS if variant.name == "recall")
    assert recipe.attention.span == SpanConfig.from_dict(tuned.options)
    assert (recipe.adapter.r, recipe.optimizer.lr, recipe.training.steps) == (settings.r, settings.lr, settings.steps)
    assert recipe.training.sequence_length == settings.tuned_length
    assert (RECIPES.parents[1] / recipe.data.sources[0].path).is_file()
    assert (RECIPES.parents[1] / recipe.data.validation[0].path).is_file()
