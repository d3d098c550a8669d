# SPDX-License-Identifier: Apache-2.0
"""Leave a model as it was, whatever is done to it in between."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PretrainedConfig

__all__ = ["preserved"]


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore a model at the end of the block: parameters, gradients, buffers, modes, hooks, configs, randomness.

    What is inside a tensor is not copied: the block must not write into the tensors that it finds, but may put others
    in their place (`parameter.data = ...`).
    """
    modules = list(model.modules())
    configs = [c for c in (getattr(module, "config", None) for module in modules) if isinstance(c, PretrainedConfig)]
    owners = [*modules, *{id(config): config for config in configs}.values()]
    # Containers are copied, for they are changed in place: hooks are entries of dictionaries.
    states = [(owner, {name: _shallow(value) for name, value in vars(owner).items()}) for owner in owners]
    parameters = [(p, p.data, p.grad, p.requires_grad) for p in model.parameters()]
    buffers = [(buffer, buffer.data) for buffer in model.buffers()]
    devices = {p.device.index for p, *_ in parameters if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(devices)):
            yield
    finally:
        for owner, state in states:
            vars(owner).clear()
            vars(owner).update(state)
        for parameter, data, gradient, requires_grad in parameters:
            parameter.data = data
            parameter.grad = gradient
            parameter.requires_grad_(requires_grad)
        for buffer, data in buffers:
            buffer.data = data


def _shallow(value: object) -> object:
    return copy.copy(value) if isinstance(value, (dict, list, set)) else value
