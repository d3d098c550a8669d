# SPDX-License-Identifier: Apache-2.0
"""The shipped checkpoint: a Bamba of half a million parameters that recalls by attention."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

ASSETS = Path(__file__).parent / "assets"
# Tokens of a row that the checkpoint was trained on, and facts scattered in the text of such a row.
CONTEXT = 64
FACTS = 4

__all__ = ["ASSETS", "CONTEXT", "FACTS", "bound_time_steps", "load_miniature", "load_tokenizer"]


def load_miniature() -> nn.Module:
    """The checkpoint in float32 and evaluation mode, with full attention."""
    import hylora

    return hylora.load(ASSETS, "full", dtype=torch.float32)


def load_tokenizer() -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer."""
    return AutoTokenizer.from_pretrained(ASSETS)


@contextlib.contextmanager
def bound_time_steps(model: nn.Module) -> Iterator[None]:
    """Make steps of one token bound the time step from below, as a whole forward pass does.

    transformers applies `time_step_limit` to a whole pass alone. Within this context the Mamba layers bound what they
    compute the time step from, which comes to the same in a whole pass and corrects a single step.

    Args:
        model: the miniature, or a PEFT model around it.
    """
    # softplus(x) >= limit where x >= log(exp(limit) - 1).
    lowest = math.log(math.expm1(model.config.time_step_limit[0]))

    def bound(mixer: nn.Module, projected: Tensor) -> Tensor:
        rest, step = projected.split([projected.shape[-1] - mixer.num_heads, mixer.num_heads], dim=-1)
        return torch.cat([rest, torch.maximum(step, lowest - mixer.dt_bias)], dim=-1)

    with contextlib.ExitStack() as stack:
        for mixer in model.modules():
            if hasattr(mixer, "time_step_limit"):
                hook = lambda _, __, projected, mixer=mixer: bound(mixer, projected)  # noqa: E731
                stack.callback(mixer.in_proj.register_forward_hook(hook).remove)
        yield
