# SPDX-License-Identifier: Apache-2.0
"""Run a model on random tokens, and compare what two ways of running it give."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hylora.adapters.structure import base_model

__all__ = ["Differs", "Probe", "assert_same", "logits", "outcome", "same_outcome", "takes"]


class Differs(AssertionError):
    """Two ways that should give the same do not, or something that should matter does not.

    Args:
        message: says what.
        difference: relative to the largest value, where it is a number.
        remedy: where it is another than the question's.
    """

    def __init__(self, message: str, difference: float | None = None, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
        # JSON has no other numbers.
        self.difference = difference if difference is not None and math.isfinite(difference) else None


@dataclass(frozen=True)
class Probe:
    """The tokens a model is asked with.

    Args:
        vocabulary: tokens from 1 to below it are drawn.
        length: of a sequence; longer than short convolutions, and several blocks of sparse attention at audit scale.
        tolerance: the largest difference that counts as rounding, relative to the largest value.
        device: where the model is.
    """

    vocabulary: int
    length: int = 45
    tolerance: float = 3e-5
    device: torch.device | str = "cpu"

    def tokens(self, batch: int = 1, length: int | None = None, seed: int = 0) -> Tensor:
        """Random token ids [batch, length]."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(1, self.vocabulary, (batch, length or self.length), generator=generator).to(self.device)


def takes(model: nn.Module, name: str) -> bool:
    """Whether a model's forward pass has an argument of this name."""
    return name in inspect.signature(base_model(model).forward).parameters


def logits(model: nn.Module, input_ids: Tensor, **arguments: Any) -> Tensor:
    """Logits [B, L, V] of a forward pass without gradients and cache.

    `position_ids` are left out where the model takes none.
    """
    if not takes(model, "position_ids"):
        arguments.pop("position_ids", None)
    with torch.no_grad():
        return model(input_ids, **{"use_cache": False, **arguments}).logits


def assert_same(actual: Tensor, expected: Tensor, name: str = "the output", tolerance: float = 3e-5) -> float:
    """Equal up to float32's rounding of the largest value.

    Returns:
        The largest difference, relative to the largest value.

    Raises:
        Differs: if it is above the tolerance, or no number.
    """
    error = float((actual - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    if not error <= tolerance * scale:
        raise Differs(f"{name} differs by {error:.2g} where values go up to {scale:.2g}", error / scale)
    return error / scale


def outcome(model: nn.Module, probe: Probe) -> dict[str, Tensor]:
    """Logits and gradients of one training step."""
    model.zero_grad()
    ids = probe.tokens(2)
    output = model(ids, labels=ids, use_cache=False)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": output.logits.detach(), **{name: gradient.clone() for name, gradient in gradients.items()}}


def same_outcome(model: nn.Module, expected: dict[str, Tensor], probe: Probe) -> float:
    """Compare a training step with an earlier `outcome`; returns and raises as `assert_same`."""
    actual = outcome(model, probe)
    if missing := expected.keys() ^ actual.keys():
        raise Differs(f"{len(missing)} gradients are there in one of two runs only, such as that of {min(missing)}")
    return max(assert_same(actual[name], value, name, probe.tolerance) for name, value in expected.items())
