# SPDX-License-Identifier: Apache-2.0
"""What a run goes on from: taken out of its model and optimizer, and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hylora.tensors import is_finite
from hylora.training.optimizer import load_optimizer_state, optimizer_state, trainable
from hylora.training.processes import like, whole

__all__ = ["NotFiniteError", "changing", "check_finite", "persistent_buffers", "put_back", "take"]


class NotFiniteError(ValueError):
    """A tensor that no training could go on from; the message is its name."""


def changing(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters, and buffers that are part of the model's state."""
    return {**trainable(model), **persistent_buffers(model)}


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that are part of a model's state, such as batch statistics; language models rarely have any."""
    persistent = model.state_dict(keep_vars=True).keys()
    return {name: value for name, value in model.named_buffers() if name in persistent}


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors with NaN or infinity; every process must call it where they are sharded.

    Raises:
        NotFiniteError: with the name of the first one.
    """
    for name, value in tensors.items():
        if not is_finite(whole(value).detach()):
            raise NotFiniteError(name)


def take(
    model: nn.Module, optimizer: torch.optim.Optimizer, names: Sequence[str], keep: bool
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Everything that the next update depends on; every process must call it where parameters are sharded.

    Args:
        model: not wrapped.
        optimizer: of its parameters.
        names: of the optimizer's parameters, in its order.
        keep: whether this process needs the tensors; the others only help to gather and check them.

    Returns:
        Tensors on the CPU as "weights" and "optimizer", and the optimizer's entries that are plain numbers.

    Raises:
        NotFiniteError: with the name of a tensor that is not.
    """
    optimizer_tensors, scalars = optimizer_state(optimizer, names)
    taken: dict[str, dict[str, Tensor]] = {}
    for group, tensors in (("weights", changing(model)), ("optimizer", optimizer_tensors)):
        taken[group] = {}
        for name, value in tensors.items():
            # One at a time, so that a sharded model is whole on no device.
            gathered = whole(value).detach()
            check_finite({name: gathered})
            if keep:
                taken[group][name] = gathered.cpu().contiguous()
    return taken, scalars


def put_back(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Mapping[str, Tensor]], scalars: Any
) -> None:
    """Put back what `take` gave.

    Raises:
        ValueError: if it is of another model, or what is trained differs.
    """
    ours, theirs = changing(model), tensors["weights"]
    if ours.keys() != theirs.keys():
        different = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"holds other weights than this run trains: {different[:5]} and {len(different)} in all differ"
        )
    for name, value in ours.items():
        if value.shape != theirs[name].shape:
            raise ValueError(
                f"holds {name} of shape {tuple(theirs[name].shape)}, and this run trains {tuple(value.shape)}"
            )
    with torch.no_grad():
        for name, value in ours.items():
            value.copy_(like(theirs[name], value))
    load_optimizer_state(optimizer, model, tensors["optimizer"], scalars)
