# SPDX-License-Identifier: Apache-2.0
"""Get what is to be audited from what a command line names: a model, a run, an adapter, a config, a recipe."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from hylora.adapters import add_adapter
from hylora.auditing.miniature import miniature
from hylora.language.model import load_model, plan_model, prepare_model
from hylora.language.recipe import LanguageRecipe
from hylora.runs.loading import load
from hylora.runs.manifest import MANIFEST_NAME
from hylora.runs.whereabouts import ADAPTER, find_folder, manifest_in

__all__ = ["Opened", "open_model", "open_recipe"]


@dataclass(frozen=True)
class Opened:
    """A model to audit.

    Args:
        model: in float32.
        conditions: what is to be said of where it comes from.
        settings: arguments of `audit` that follow from a recipe.
    """

    model: nn.Module
    conditions: tuple[str, ...] = ()
    settings: dict[str, Any] | None = None


def open_model(name: str, *, small: bool = False, revision: str | None = None) -> Opened:
    """Load a model with its adapter, or build a small one like it.

    Args:
        name: a run's folder, a folder with a model or an adapter of PEFT, a hub id, or a config.json, which always
            gives a small model.
        small: a `miniature` with random weights; only configs are read.
        revision: on the hub, of `name`; an adapter names that of its base itself.

    Raises:
        ValueError: if it cannot be loaded or made small.
        OSError: if it is not there.
    """
    if Path(name).is_file():
        return _small(AutoConfig.from_pretrained(name))
    folder = find_folder(name, revision)
    adapter = name if (folder / ADAPTER).is_file() else None
    of_peft = adapter is not None and not (folder / MANIFEST_NAME).is_file()
    if not small and not of_peft:
        return Opened(load(name, dtype=torch.float32, revision=revision, trainable=True))
    if of_peft:
        saved = PeftConfig.from_pretrained(name, revision=revision)
        base, base_revision = saved.base_model_name_or_path, saved.revision
    else:
        manifest = manifest_in(folder, name)
        base, base_revision = (name, revision) if adapter is None else (manifest.base_model, manifest.base_revision)
    if small:
        return _small(AutoConfig.from_pretrained(base, revision=base_revision), adapter, revision)
    model = AutoModelForCausalLM.from_pretrained(base, revision=base_revision, dtype=torch.float32)
    return Opened(PeftModel.from_pretrained(model, name, revision=revision, is_trainable=True))


def _small(config: PretrainedConfig, adapter: str | None = None, revision: str | None = None) -> Opened:
    name = config.name_or_path
    config, words = miniature(config)
    config.name_or_path = name
    model = _random(config)
    if adapter is not None:
        saved = LoraConfig.from_pretrained(adapter, revision=revision)
        model = add_adapter(model, replace(saved, inference_mode=False))
    return Opened(model, (f"a miniature: {words}",))


def _random(config: PretrainedConfig, **arguments: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **arguments)


def open_recipe(recipe: LanguageRecipe, *, small: bool = False) -> Opened:
    """The model that a recipe trains, as training would begin with it.

    Args:
        recipe: the recipe; only its model, attention, adapter, packing and checkpointing are looked at, and the base
            is not quantised.
        small: a `miniature` with random weights.

    Raises:
        RecipeError: if the recipe does not fit its model.
    """
    conditions = ["attention, adapter, RoPE, packing and checkpointing of the recipe"]
    # Rounded weights would hide what an audit looks for, which compares in float32.
    recipe = replace(recipe, model=replace(recipe.model, dtype="auto", quantization=None))
    named = recipe.model.path or ""
    if small or Path(named).is_file():
        config, words = miniature(plan_model(replace(recipe, model=replace(recipe.model, rope=None))).config)
        conditions.append(f"a miniature: {words}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(config.to_dict()), encoding="utf-8")
            changed = replace(recipe.model, path=str(path), config=None, from_scratch=False)
            recipe = replace(recipe, model=changed)
            plan = plan_model(recipe)
        plan.config.name_or_path = named
        model = _random(plan.config, attn_implementation=plan.attention)
    else:
        plan = plan_model(recipe)
        model = load_model(recipe, plan, "no")
    settings = {"packing": recipe.data.packing, "checkpointing": recipe.training.gradient_checkpointing}
    return Opened(prepare_model(model, recipe, plan), tuple(conditions), settings)
