# SPDX-License-Identifier: Apache-2.0
"""How fast a text is generated."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TextStreamer

__all__ = ["Clock"]


class Clock(TextStreamer):
    """Prints tokens as they come, and tells how fast they came."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Print tokens; the first to be put are the prompt's."""
        self._times.append(time.perf_counter())
        super().put(value)

    def report(self) -> str:
        """Seconds of the prompt, and new tokens per second behind the first."""
        start, first, *_ = self._times
        new = len(self._times) - 1
        speed = f" ({(new - 1) / (self._times[-1] - first):.1f} a second)" if new > 1 else ""
        return f"the first new one after {first - start:.1f} s, {new} written{speed}"
