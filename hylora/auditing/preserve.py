# SPDX-License-Identifier: Apache-2.0
"""Leave a model as it was, whatever is done to it in between."""

from __future__ import annotations

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
    # Containers are changed in place, for hooks are entries of dictionaries; and others hold on to these very objects:
    # the handle of a hook, or a PeftModel to the adapters of its tuner.
    states = [(owner, {name: (value, _content(value)) for name, value in vars(owner).items()}) for owner in owners]
    parameters = [(p, p.data, p.grad, p.requires_grad) for p in model.parameters()]
    buffers = [(buffer, buffer.data) for buffer in model.buffers()]
    devices = {p.device.index for p, *_ in parameters if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(devices)):
            yield
    finally:
        for owner, state in states:
            vars(owner).clear()
            vars(owner).update({name: value for name, (value, _) in state.items()})
            for value, content in state.values():
                _refill(value, content)
        for parameter, data, gradient, requires_grad in parameters:
            parameter.data = data
            parameter.grad = gradient
            parameter.requires_grad_(requires_grad)
        for buffer, data in buffers:
            buffer.data = data


def _content(value: object) -> list | None:
    """What is in a container; None of anything else."""
    if isinstance(value, dict):
        return list(value.items())
    return list(value) if isinstance(value, (list, set)) else None


def _refill(value: object, content: list | None) -> None:
    if content is None:
        return
    value.clear()
    if isinstance(value, list):
        value.extend(content)
    else:
        value.update(content)
