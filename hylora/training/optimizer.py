# SPDX-License-Identifier: Apache-2.0
"""Optimizers, and their state as named tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hylora.training.processes import like, shape_of
from hylora.training.recipe import OptimizerRecipe, RecipeError

__all__ = [
    "build_optimizer",
    "carried_state",
    "check_optimizer",
    "decay_matrices",
    "load_optimizer_state",
    "optimizer_state",
    "parameter_names",
    "trainable",
]


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


def build_optimizer(groups: Sequence[dict[str, Any]], recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over parameter groups.

    Args:
        groups: as torch takes them; a group's own "lr" and "weight_decay" go before the recipe's.
        recipe: of the optimizer.

    Returns:
        The optimizer; "initial_lr" of each group is the rate that a schedule multiplies.

    Raises:
        RecipeError: if there is nothing to train, or the optimizer cannot be had here.
    """
    check_optimizer(recipe)
    groups = [group for group in map(dict, groups) if group["params"]]
    if not groups:
        raise RecipeError("no parameter is trainable; look at what the recipe freezes or adapts")
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.name == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=recipe.momentum, **options)
    else:
        kind = torch.optim.AdamW
        if recipe.name == "adamw_8bit":
            import bitsandbytes

            kind = bitsandbytes.optim.AdamW8bit
        optimizer = kind(groups, betas=recipe.betas, eps=recipe.eps, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def decay_matrices(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups in which weight decay spares norms and biases: only what has two dimensions or more decays."""
    parameters = list(trainable(model).values())
    return [
        {"params": [each for each in parameters if len(shape_of(each)) > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if len(shape_of(each)) <= 1], "weight_decay": 0.0},
    ]


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names of an optimizer's parameters in the model, not wrapped, in the optimizer's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state, keyed `parameter::entry`.

    Args:
        optimizer: built by `build_optimizer`.
        names: of its parameters, in its order.

    Returns:
        Tensors, which are the optimizer's own, and entries that are plain numbers or null. Nothing before the first
        update.
    """
    tensors, scalars = {}, {}
    state = optimizer.state_dict()["state"]
    for position, name in enumerate(names):
        for entry, value in state.get(position, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}::{entry}"] = value
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
    parameters = dict(model.named_parameters())
    index = {name: position for position, name in enumerate(parameter_names(optimizer, model))}
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


def carried_state(
    model: nn.Module, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any], shapes: Mapping[str, torch.Size]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The part of an optimizer's state whose parameters are still there in a model that has changed.

    A parameter that grew is taken to hold its former values in its leading corner: its state is moved there, and is
    zero elsewhere. State of parameters that are gone, shrank or have other dimensions is left behind, and so is that
    of those which grew if it is packed: 8-bit optimizers scale blocks of elements, which then would be other ones.

    Args:
        model: as it is now.
        tensors, scalars: from `optimizer_state`, before.
        shapes: of the parameters before, by name.
    """
    now = {name: parameter.shape for name, parameter in trainable(model).items()}
    named = [(key.rpartition("::")[0], value) for key, value in tensors.items()]
    packed = {name for name, value in named if value.ndim and value.shape != shapes[name]}
    kept = {
        name
        for name, shape in now.items()
        if name in shapes and (shape == shapes[name] or (name not in packed and _fits(shapes[name], shape)))
    }

    def of_kept(entries: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entries.items() if key.rpartition("::")[0] in kept}

    grown = {}
    for key, value in of_kept(tensors).items():
        name = key.rpartition("::")[0]
        grown[key] = _enlarged(value, now[name]) if value.shape == shapes[name] else value
    return grown, of_kept(scalars)


def _fits(part: torch.Size, whole: torch.Size) -> bool:
    return len(part) == len(whole) and all(small <= large for small, large in zip(part, whole, strict=True))


def _enlarged(value: Tensor, shape: torch.Size) -> Tensor:
    if value.shape == shape:
        return value
    larger = value.new_zeros(shape)
    larger[tuple(map(slice, value.shape))] = value
    return larger
