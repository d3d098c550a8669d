# SPDX-License-Identifier: Apache-2.0
"""The task of a recipe, put together: its model, its tokenizer and its data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from hylora.adapters.quantization import Quantization
from hylora.hub_kernels import check_hub_kernels
from hylora.language.data import TokenData, build_datasets
from hylora.language.data.packing import check_kernels
from hylora.language.head import LogitTransform, verify_head
from hylora.language.liger import check_liger
from hylora.language.model import ModelPlan, load_model, plan_model, prepare_model
from hylora.language.recipe import LanguageRecipe
from hylora.language.task import CausalLoss, LanguageTask
from hylora.runs.fingerprint import model_fingerprint, tokenizer_fingerprint
from hylora.runs.tokenizer import check_vocabulary, read_tokenizer
from hylora.training.evaluation import evaluation_mode
from hylora.training.processes import SHARDED, main_first, on_all, on_main, shards_parameters, share_of
from hylora.training.recipe import RecipeError

__all__ = ["assemble"]


def assemble(recipe: LanguageRecipe, accelerator: Accelerator) -> LanguageTask:
    """The task of a recipe: its model planned, its data read, and then its weights loaded.

    Raises:
        RecipeError: if the recipe cannot work here.
    """

    def read_small() -> tuple[ModelPlan, Any]:
        with _unsharded(accelerator):
            plan = plan_model(recipe)
        _check_kernels(recipe, plan, accelerator)
        if plan.quantization is not None:
            _check_quantization(plan.quantization, accelerator)
        if recipe.training.loss == "liger":
            _check_liger(plan, accelerator)
        return plan, _load_tokenizer(recipe, plan)

    plan, tokenizer = on_all(accelerator, read_small)
    data = _read_data(recipe, tokenizer, accelerator)

    def load() -> torch.nn.Module:
        return load_model(recipe, plan, accelerator.mixed_precision, _destination(accelerator))

    # Under ZeRO-3 processes load together, and one that fails cannot tell the others.
    base = load() if is_deepspeed_zero3_enabled() else on_all(accelerator, load)
    identity = {
        "data": data.fingerprint,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        # Random weights follow from the recipe, which a resumed run may not change. Of others, the main process may
        # hold the only ones until accelerate shards them.
        "base model": None if recipe.model.from_scratch else on_main(accelerator, lambda: model_fingerprint(base)),
    }
    model = prepare_model(base, recipe, plan)
    loss = CausalLoss(model, recipe.training.loss_slice, recipe.training.loss, hub_kernels=recipe.model.use_kernels)
    _check_sharding(loss, accelerator)
    task = LanguageTask(loss, tokenizer, data, recipe, plan, share_of(accelerator), identity)
    _verify_head(model, accelerator)
    return task


@contextlib.contextmanager
def _unsharded(accelerator: Accelerator) -> Iterator[None]:
    """Under ZeRO-3 transformers shards every model that it makes, and one without storage cannot be."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if accelerator.state.deepspeed_plugin is not None:
            set_hf_deepspeed_config(accelerator.state.deepspeed_plugin.dschf)


def _destination(accelerator: Accelerator) -> torch.device | None:
    """Where this process loads weights to, so that a machine's memory holds them once at most."""
    if not shards_parameters(accelerator):
        return accelerator.device
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None or not plugin.cpu_ram_efficient_loading or accelerator.is_local_main_process:
        return None
    return torch.device("meta")


def _check_kernels(recipe: LanguageRecipe, plan: ModelPlan, accelerator: Accelerator) -> None:
    try:
        if recipe.model.use_kernels:
            # What they do with packed documents shows in the first forward pass.
            check_hub_kernels(accelerator.device)
        else:
            check_kernels(recipe.data, plan.config.get_text_config())
    except ValueError as error:
        raise RecipeError(f"model.{error}" if recipe.model.use_kernels else str(error)) from error


def _check_quantization(quantization: Quantization, accelerator: Accelerator) -> None:
    try:
        quantization.check_installed()
    except ValueError as error:
        raise RecipeError(f"model.{error}") from error
    if accelerator.distributed_type in SHARDED:
        raise RecipeError(
            f"model.quantization={quantization.method!r} must not come with FSDP or DeepSpeed, which would spread "
            "quantised weights as if they were ordinary ones; use DDP, where each GPU holds the small base"
        )
    if quantization.method == "torchao_int8" and accelerator.num_processes > 1:
        raise RecipeError(
            "model.quantization='torchao_int8' must not come with several processes, between which torch cannot send "
            "its weights; use int8"
        )


def _check_liger(plan: ModelPlan, accelerator: Accelerator) -> None:
    try:
        check_liger(accelerator.device, LogitTransform.of(plan.config.get_text_config()))
    except ValueError as error:
        raise RecipeError(f"training.{error}") from error


def _check_sharding(loss: CausalLoss, accelerator: Accelerator) -> None:
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None or plugin.auto_wrap_policy is None:
        return
    layers = [name for name, module in loss.named_modules() if type(module).__name__ in (loss._no_split_modules or ())]
    for names in loss.shared:
        owners = [layer for layer in layers if any(name.startswith(f"{layer}.") for name in names)]
        if len(owners) > 1:
            raise RecipeError(
                f"accelerate was asked for FSDP2, which shards layer by layer, and {owners[0]} shares {names[0]} with "
                f"{owners[-1]}; launch with DDP or DeepSpeed ZeRO"
            )


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
    if shards_parameters(accelerator):
        # The whole model need not fit on one device.
        return
    model.to(accelerator.device)
    try:
        with evaluation_mode(model), accelerator.autocast():
            verify_head(model, torch.arange(4, device=accelerator.device)[None])
    except ValueError as error:
        raise RecipeError(f"model: {error}") from error
