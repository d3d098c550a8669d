# SPDX-License-Identifier: Apache-2.0
"""Optimizers, and their state as named tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hylora.training.recipe import OptimizerRecipe, RecipeError
from hylora.training.sharding import like, whole

__all__ = ["build_optimizer", "check_optimizer", "load_optimizer_state", "optimizer_state", "trainable"]


def check_optimizer(recipe: OptimizerRecipe) -> None:
    """Refuse an optimizer that cannot be had here.

    Raises:
        RecipeError: if it needs a package or a device that is missing.
    """
    if recipe.name == "adamw_8bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise RecipeError(
                "optimizer.name='adamw_8bit' needs bitsandbytes, which is not installed; "
                "pip install 'hylora[optim]' or use optimizer.name=adamw"
            )
        if not torch.cuda.is_available():
            raise RecipeError("optimizer.name='adamw_8bit' needs a CUDA device; use optimizer.name=adamw")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_optimizer(model: nn.Module, recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable parameters.

    Raises:
        RecipeError: if nothing is trainable, or the optimizer cannot be had here.
    """
    check_optimizer(recipe)
    parameters = list(trainable(model).values())
    if not parameters:
        raise RecipeError("no parameter is trainable; look at model.freeze and adapter.variant")
    if recipe.name == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    options: dict[str, Any] = {
        "lr": recipe.lr,
        "betas": recipe.betas,
        "eps": recipe.eps,
        "weight_decay": recipe.weight_decay,
    }
    if recipe.name == "adamw_8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, **options)
    return torch.optim.AdamW(parameters, **options)


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state, keyed `parameter::entry`. Every process must call it where parameters are sharded.

    Args:
        optimizer: built by `build_optimizer`.
        model: whose parameters it updates, not wrapped.

    Returns:
        Tensors, and entries that are plain numbers or null.
    """
    tensors, scalars = {}, {}
    for name, entries in zip(_names(optimizer, model), _entries(optimizer), strict=True):
        for entry, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{name}::{entry}"] = whole(value).detach().cpu().contiguous()
            else:
                scalars[f"{name}::{entry}"] = value
    return tensors, scalars


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    """Put back what `optimizer_state` gave.

    Raises:
        ValueError: if the state belongs to other parameters.
    """
    names = _names(optimizer, model)
    parameters = dict(model.named_parameters())
    index = {name: position for position, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars}.items():
        name, _, entry = key.rpartition("::")
        if name not in index:
            raise ValueError(f"the checkpoint holds optimizer state of {name!r}, which is not trained in this run")
        if isinstance(value, Tensor):
            # Entries of the parameter's shape are sharded as it is; counters are not.
            value = like(value, parameters[name]) if value.shape == parameters[name].shape else value
        state.setdefault(index[name], {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names of the optimizer's parameters, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in _parameters(optimizer)]


def _entries(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The state of each parameter, in the optimizer's order; empty before the first update."""
    state = optimizer.state_dict()["state"]
    return [state.get(position, {}) for position in range(len(_parameters(optimizer)))]
