# SPDX-License-Identifier: Apache-2.0
"""The model of a recipe: everything about it that can be checked is checked before a weight is loaded."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from hylora.adapters import HyLoraConfig, add_adapter
from hylora.adapters.quantization import Quantization
from hylora.attention import check_attention, resolve_name
from hylora.language.data.packing import check_packing
from hylora.language.recipe import LanguageRecipe, ModelRecipe
from hylora.randomness import derive_key
from hylora.runs.weights import load_weights
from hylora.runs.whereabouts import find_folder
from hylora.training.recipe import RecipeError
from hylora.training.recipe_loading import to_tree
from hylora.words import nearest

__all__ = ["ModelPlan", "load_model", "plan_model", "prepare_model", "weights_dtype"]


@dataclass(frozen=True)
class ModelPlan:
    """A recipe's model, checked but without weights.

    Args:
        config: transformers' config, with attention options and RoPE scaling set.
        attention: transformers' name of the attention.
        adapter: resolved for this architecture, or None to train the model itself.
        rope: the fields of the config that RoPE scaling has set; empty where nothing is scaled.
        quantization: of the base, or None.
    """

    config: PretrainedConfig
    attention: str
    adapter: LoraConfig | None
    rope: dict[str, Any]
    quantization: Quantization | None = None


def plan_model(recipe: LanguageRecipe) -> ModelPlan:
    """Check a recipe against its model's config and architecture.

    Raises:
        RecipeError: if they do not fit together, naming the key of the recipe.
    """
    config = _read_config(recipe.model)
    text = config.get_text_config()
    if getattr(config, "quantization_config", None) is not None:
        raise RecipeError(
            f"model.path={recipe.model.path!r} holds quantised weights, of which not all could be kept or merged; "
            "name the model with ordinary weights, and set model.quantization"
        )
    rope = _scale_rope(config, recipe)
    attention = recipe.attention.name
    if resolve_name(attention) != "sdpa":
        recipe.attention.span.keep_on(text)
    try:
        check_attention(config, attention)
        check_packing(recipe.data, text, attention)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    _check_losses(text)
    name = resolve_name(attention, config)
    # Parameters without storage: the architecture shows itself at no cost.
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(
            config, attn_implementation=name, trust_remote_code=recipe.model.trust_remote_code
        )
    if recipe.training.gradient_checkpointing and not skeleton.supports_gradient_checkpointing:
        raise RecipeError(
            f"training.gradient_checkpointing=True is not supported by {type(skeleton).__name__}; set it to false"
        )
    if recipe.training.offload and "offload" not in inspect.signature(_checkpointing(skeleton)).parameters:
        raise RecipeError(
            f"training.offload=True is not supported by {type(skeleton).__name__}, whose own way to turn gradient "
            "checkpointing on knows no offload; leave training.offload out"
        )
    _check_freeze(skeleton, recipe.model.freeze)
    adapter = _plan_adapter(skeleton, recipe)
    return ModelPlan(config, name, adapter, rope, _plan_quantization(skeleton, recipe, adapter))


def load_model(
    recipe: LanguageRecipe, plan: ModelPlan, mixed_precision: str, device: torch.device | None = None
) -> nn.Module:
    """Load or make the planned model, bare.

    Args:
        recipe: the recipe.
        plan: of the same recipe.
        mixed_precision: accelerate's name, "bf16" or "no".
        device: where loaded weights go, one after another, so that the host never holds them all; None for the host,
            and "meta" for weights that are yet to come from another process.

    Raises:
        RecipeError: if the checkpoint is damaged, or lacks weights of the model.
    """
    # One seed for every process: all start from the same random weights.
    torch.manual_seed(derive_key("weights", recipe.training.seed))
    source, dtype = recipe.model, weights_dtype(recipe, mixed_precision)
    if source.from_scratch:
        return AutoModelForCausalLM.from_config(plan.config, attn_implementation=plan.attention, dtype=dtype)
    try:
        model = load_weights(
            source.path,
            config=plan.config,
            attn_implementation=plan.attention,
            device_map=None if device is None else {"": device},
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            **({"dtype": dtype} if plan.quantization is None else plan.quantization.arguments(dtype)),
        )
    except ValueError as error:
        raise RecipeError(f"model.path={source.path!r} cannot be loaded: {error}") from error
    if device is not None and device.type == "meta":
        _make_room(model)
    return model


def _make_room(model: PreTrainedModel) -> None:
    """Give parameters without storage memory that no one has touched, which costs nothing until then.

    accelerate tells the parameters of an optimizer apart by their addresses.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty_like(parameter, device="cpu")
            setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
    model.tie_weights()


def prepare_model(model: nn.Module, recipe: LanguageRecipe, plan: ModelPlan) -> nn.Module:
    """Make a bare model the one that is trained: its adapter, what is frozen, what is recomputed.

    Args:
        model: of the plan's architecture; its weights may have no storage.
        recipe: the recipe.
        plan: of the same recipe.

    Returns:
        The model in training mode, what is trained in float32.
    """
    if plan.adapter is not None:
        model = add_adapter(model, plan.adapter)
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, _original_name(name)) for pattern in recipe.model.freeze):
            parameter.requires_grad_(False)
    if recipe.training.gradient_checkpointing:
        base = model.get_base_model() if plan.adapter is not None else model
        # Where there is no accelerator activations are on the host already, and transformers would fail to pin them.
        offload = {"offload": True} if recipe.training.offload and torch.accelerator.is_available() else {}
        _checkpointing(base)({"use_reentrant": False}, **offload)
        # Only re-entrant checkpointing needs inputs that require gradients.
        base.disable_input_require_grads()
    return model.train()


def weights_dtype(recipe: LanguageRecipe, mixed_precision: str) -> torch.dtype:
    """Type of the loaded weights; trained weights need float32, frozen ones do not.

    Args:
        recipe: the recipe.
        mixed_precision: accelerate's name, "bf16" or "no".

    Raises:
        RecipeError: if the recipe asks for bfloat16 weights without mixed precision.
    """
    if recipe.model.dtype == "bfloat16" and mixed_precision != "bf16":
        raise RecipeError("model.dtype='bfloat16' needs training.mixed_precision=bf16, for what is trained is float32")
    if recipe.model.dtype != "auto":
        return getattr(torch, recipe.model.dtype)
    frozen = recipe.adapter.variant != "none"
    return torch.bfloat16 if frozen and mixed_precision == "bf16" else torch.float32


def _read_config(recipe: ModelRecipe) -> PretrainedConfig:
    if recipe.from_scratch:
        return _new_config(recipe.config)
    if (Path(recipe.path) / "adapter_config.json").is_file():
        raise RecipeError(
            f"model.path={recipe.path!r} holds an adapter, not a model; merge it into its base "
            f"(hylora export {recipe.path} FOLDER) and train that"
        )
    try:
        # Of a model that is only planned, a config.json is enough.
        if not Path(recipe.path).is_file():
            find_folder(recipe.path, recipe.revision)
        return AutoConfig.from_pretrained(
            recipe.path, revision=recipe.revision, trust_remote_code=recipe.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.path={recipe.path!r} cannot be read: {error}") from error


def _new_config(source: dict[str, Any] | str) -> PretrainedConfig:
    """A config from a mapping or a JSON file, in which a misspelt field is an error."""
    try:
        values = dict(source) if isinstance(source, dict) else json.loads(Path(source).read_text(encoding="utf-8"))
        model_type = values.pop("model_type")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"model.config={source!r} is no mapping with a model_type, nor a JSON file: {error}"
        ) from error
    try:
        known = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise RecipeError(f"model.config.model_type={model_type!r} is not known to transformers") from error
    for name, value in values.items():
        if not hasattr(known, name):
            raise RecipeError(
                f"unknown key model.config.{name}={value!r}; the nearest valid key is "
                f"model.config.{nearest(name, known.to_dict())}"
            )
    return AutoConfig.for_model(model_type, **values)


def _scale_rope(config: PretrainedConfig, recipe: LanguageRecipe) -> dict[str, Any]:
    if recipe.model.rope is None:
        return {}
    try:
        return recipe.model.rope.apply(
            config, recipe.training.sequence_length, trust_remote_code=recipe.model.trust_remote_code
        )
    except ValueError as error:
        raise RecipeError(f"model.rope: {error}") from error


def _check_losses(config: PretrainedConfig) -> None:
    """Refuse parts of a model's own loss that the sliced loss would leave out."""
    if getattr(config, "output_router_logits", False):
        raise RecipeError(
            "output_router_logits=True in the model's config adds a load-balancing loss, which is not computed here; "
            "set it to false in the config"
        )
    if getattr(config, "z_loss_coefficient", 0.0):
        raise RecipeError(
            f"z_loss_coefficient={config.z_loss_coefficient} in the model's config adds a loss that is not computed "
            "here; set it to 0 in the config"
        )


def _checkpointing(model: nn.Module) -> Callable[..., None]:
    """How gradient checkpointing is turned on.

    The older name, until every supported transformers has the newer one, warns that it will go.
    """
    return getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable


def _check_freeze(model: nn.Module, patterns: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for index, pattern in enumerate(patterns):
        try:
            found = any(re.search(pattern, name) for name in names)
        except re.error as error:
            raise RecipeError(f"model.freeze.{index}={pattern!r} is not a regular expression: {error}") from error
        if not found:
            raise RecipeError(
                f"model.freeze.{index}={pattern!r} matches no parameter; the nearest is {nearest(pattern, names)}"
            )


def _original_name(name: str) -> str:
    """A parameter's name in the model without an adapter, which is what patterns were checked against."""
    return re.sub(r"^base_model\.model\.|\.modules_to_save\.\w+|\.base_layer", "", name)


def _plan_adapter(model: nn.Module, recipe: LanguageRecipe) -> LoraConfig | None:
    """The adapter, put on the model that has no weights to see that it can be."""
    if recipe.adapter.variant == "none":
        return None
    # PEFT takes no tuples, and no null for what is not given.
    given = {name: value for name, value in to_tree(recipe.adapter).items() if value is not None}
    try:
        config = HyLoraConfig.for_model(model, **given)
        with torch.device("meta"):
            add_adapter(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise RecipeError(f"adapter: {error}") from error
    return config


def _plan_quantization(model: nn.Module, recipe: LanguageRecipe, adapter: LoraConfig | None) -> Quantization | None:
    method = recipe.model.quantization
    if method is None or adapter is None:
        return None
    try:
        return Quantization.plan(method, model, adapter)
    except ValueError as error:
        raise RecipeError(f"model.{error}") from error
