# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a language model: from a recipe to a folder that `hylora.load` reads."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from hylora.language.advice import advise
from hylora.language.data import TokenData, build_datasets
from hylora.language.head import verify_head
from hylora.language.model import ModelPlan, load_model, plan_model, prepare_model
from hylora.language.recipe import LanguageRecipe
from hylora.language.task import CausalLoss, LanguageTask
from hylora.runs.fingerprint import model_fingerprint, tokenizer_fingerprint
from hylora.runs.tokenizer import check_vocabulary, read_tokenizer
from hylora.training.evaluation import evaluation_mode
from hylora.training.processes import SHARDED, main_first, share_of
from hylora.training.recipe import RecipeError
from hylora.training.run import RunResult, run
from hylora.training.tasks import TaskKind

__all__ = ["TASK", "make_task", "train"]


def train(recipe: LanguageRecipe) -> RunResult:
    """Fine-tune as `hylora.training.run`; `hylora.load(result.folder)` gives the model."""
    return run(recipe, make_task)


def make_task(recipe: LanguageRecipe, accelerator: Accelerator) -> LanguageTask:
    """The task of a recipe: its model planned, its data read, and then its weights loaded.

    Raises:
        RecipeError: if the recipe cannot work here.
    """
    plan = plan_model(recipe)
    tokenizer = _load_tokenizer(recipe, plan)
    data = _read_data(recipe, tokenizer, accelerator)
    base = load_model(recipe, plan, accelerator.mixed_precision)
    identity = {
        "data": data.fingerprint,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        # Random weights follow from the recipe, which a resumed run may not change.
        "base model": None if recipe.model.from_scratch else model_fingerprint(base),
    }
    model = prepare_model(base, recipe, plan)
    loss = CausalLoss(model, recipe.training.loss_slice)
    task = LanguageTask(loss, tokenizer, data, recipe, plan, share_of(accelerator), identity)
    _verify_head(model, accelerator)
    return task


TASK = TaskKind(LanguageRecipe, make_task, advise)


def _load_tokenizer(recipe: LanguageRecipe, plan: ModelPlan) -> Any:
    key = "path" if recipe.model.tokenizer is None else "tokenizer"
    source = getattr(recipe.model, key)
    try:
        tokenizer = read_tokenizer(
            source,
            revision=recipe.model.revision if key == "path" else None,
            trust_remote_code=recipe.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.{key}={source!r} gives no tokenizer: {error}") from error
    try:
        check_vocabulary(tokenizer, plan.config.get_text_config().vocab_size)
    except ValueError as error:
        raise RecipeError(f"model.{key}={source!r} does not belong to the model: {error}") from error
    return tokenizer


def _read_data(recipe: LanguageRecipe, tokenizer: Any, accelerator: Accelerator) -> TokenData:
    def read() -> TokenData:
        try:
            return build_datasets(recipe.data, tokenizer, recipe.training.sequence_length, recipe.training.seed)
        except ValueError as error:
            raise RecipeError(str(error)) from error

    # The main process fills the cache, the others read it.
    return main_first(accelerator, read)


def _verify_head(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Make sure, on a few tokens, that the sliced loss is the loss of this model's logits."""
    if accelerator.distributed_type in SHARDED:
        # The whole model need not fit on one device.
        return
    model.to(accelerator.device)
    try:
        with evaluation_mode(model), accelerator.autocast():
            verify_head(model, torch.arange(4, device=accelerator.device)[None])
    except ValueError as error:
        raise RecipeError(f"model: {error}") from error
