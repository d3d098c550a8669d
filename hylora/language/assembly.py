# SPDX-License-Identifier: Apache-2.0
"""The task of a recipe, put together: its model, its tokenizer and its data."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from hylora.adapters.quantization import Quantization
from hylora.language.data import TokenData, build_datasets
from hylora.language.head import LogitTransform, verify_head
from hylora.language.liger import check_liger
from hylora.language.model import ModelPlan, load_model, plan_model, prepare_model
from hylora.language.recipe import LanguageRecipe
from hylora.language.task import CausalLoss, LanguageTask
from hylora.runs.fingerprint import model_fingerprint, tokenizer_fingerprint
from hylora.runs.tokenizer import check_vocabulary, read_tokenizer
from hylora.training.evaluation import evaluation_mode
from hylora.training.processes import SHARDED, main_first, share_of
from hylora.training.recipe import RecipeError

__all__ = ["assemble"]


def assemble(recipe: LanguageRecipe, accelerator: Accelerator) -> LanguageTask:
    """The task of a recipe: its model planned, its data read, and then its weights loaded.

    Raises:
        RecipeError: if the recipe cannot work here.
    """
    plan = plan_model(recipe)
    if plan.quantization is not None:
        _check_quantization(plan.quantization, accelerator)
    if recipe.training.loss == "liger":
        _check_liger(plan, accelerator)
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
    loss = CausalLoss(model, recipe.training.loss_slice, recipe.training.loss)
    task = LanguageTask(loss, tokenizer, data, recipe, plan, share_of(accelerator), identity)
    _verify_head(model, accelerator)
    return task


def _check_quantization(quantization: Quantization, accelerator: Accelerator) -> None:
    try:
        quantization.check_installed()
    except ValueError as error:
        raise RecipeError(f"model.{error}") from error
    if accelerator.distributed_type in SHARDED:
        raise RecipeError(
            f"model.quantization={quantization.method!r} must not come with FSDP or DeepSpeed, which would spread "
            "quantized weights as if they were ordinary ones; use DDP, where each GPU holds the small base"
        )


def _check_liger(plan: ModelPlan, accelerator: Accelerator) -> None:
    try:
        check_liger(accelerator.device, LogitTransform.of(plan.config.get_text_config()))
    except ValueError as error:
        raise RecipeError(f"training.{error}") from error


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
