# SPDX-License-Identifier: Apache-2.0
"""Bounds on the time step of Mamba-2's layers, in generation as in a whole forward pass."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["bound_time_steps", "bounded_mixers"]


def bounded_mixers(model: nn.Module) -> list[nn.Module]:
    """The layers whose time step has a lower bound above 0 or a finite upper one."""
    return [m for m in model.modules() if tuple(getattr(m, "time_step_limit", (0.0, math.inf))) != (0.0, math.inf)]


@contextlib.contextmanager
def bound_time_steps(model: nn.Module) -> Iterator[None]:
    """Make steps of one token bound the time step as a whole forward pass does.

    transformers applies `time_step_limit` to a whole pass alone. Within this context the Mamba layers bound what they
    compute the time step from, which comes to the same in a whole pass and corrects a single step.

    Args:
        model: a model of transformers with layers of Mamba-2, or a PEFT model around it. Where none has a bound,
            nothing is changed.
    """
    with contextlib.ExitStack() as stack:
        for mixer in bounded_mixers(model):
            stack.callback(mixer.in_proj.register_forward_hook(partial(_bound, mixer)).remove)
        yield


def _bound(mixer: nn.Module, projection: nn.Module, arguments: tuple, projected: Tensor) -> Tensor:
    """The output of a mixer's projection, whose last values, one for each head, give the time step."""
    rest, step = projected.split([projected.shape[-1] - mixer.num_heads, mixer.num_heads], dim=-1)
    low, high = (_before_softplus(limit) - mixer.dt_bias for limit in mixer.time_step_limit)
    # Falcon-H1 multiplies what it projects.
    scale = mixer.mup_vector[..., -mixer.num_heads :] if hasattr(mixer, "mup_vector") else 1.0
    return torch.cat([rest, step.clamp(low / scale, high / scale).to(rest.dtype)], dim=-1)


def _before_softplus(step: float) -> float:
    return step + math.log(-math.expm1(-step)) if step > 0 else -math.inf
