# SPDX-License-Identifier: Apache-2.0
"""How large everything is: as it is reported, or so small that a CPU runs all of it in seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from .methods import Options

# Room for the tokens that replays of a decode step append.
_ROOM = 256


@dataclass(frozen=True)
class Sizes:
    """Sizes of every part.

    Attributes:
        options: of the attentions.
        dtype: of queries, keys and values.
        heads: pairs of query heads and KV heads.
        lengths: tokens of the attention passes, those that matter most first.
        flex_lengths: those at which FlexAttention is timed, each of which it compiles for.
        check_length: tokens at which methods are checked, with few heads.
        real_length: tokens at which kernels are checked with all heads.
        kernel_length: tokens at which kernels are timed one by one, and tuned.
        rounds: at most, of any measurement.
        cache_lengths: tokens in the cache of a decode step.
        step_lengths: tokens of a fine-tuning step.
        model: fields of the model that takes the step; empty for the 2.7B shape.
        side: of the matrices whose product gives the rate of the device.
        copied: bytes that are copied for its bandwidth.
    """

    options: Options
    dtype: torch.dtype
    heads: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    flex_lengths: tuple[int, ...]
    check_length: int
    real_length: int
    kernel_length: int
    rounds: int
    cache_lengths: tuple[int, ...]
    step_lengths: tuple[int, ...]
    model: dict[str, Any]
    side: int
    copied: int

    @property
    def few_heads(self) -> list[tuple[int, int]]:
        """The pairs of heads with as many query heads to a KV head, of which there are two."""
        return [(2 * heads // kv_heads, 2) for heads, kv_heads in self.heads]

    def decode_tokens(self, length: int) -> tuple[int, int]:
        """Tokens with a decode step's at a length, half a chunk fewer, and the capacity of its cache.

        At a chunk's start there would be next to nothing of it to read.
        """
        tokens = length - self.options.chunk_size // 2
        return tokens, tokens + _ROOM

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "dtype": str(self.dtype).removeprefix("torch.")}


_REPORTED = Sizes(
    options=Options(head_dim=128, device="cuda"),
    dtype=torch.bfloat16,
    heads=((30, 30), (32, 8)),
    lengths=(65536, 32768, 131072, 16384),
    flex_lengths=(65536, 32768),
    check_length=3 * 2048 + 37,
    real_length=32768 + 37,
    kernel_length=65536,
    rounds=9,
    cache_lengths=(131072, 65536, 32768, 16384),
    step_lengths=(8192, 32768, 65536),
    model={},
    side=8192,
    copied=1 << 32,
)

_TINY_MODEL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "head_dim": 16,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}

_QUICK = Sizes(
    options=Options(block_size=16, top_k=2, chunk_size=32, window=32, head_dim=16),
    dtype=torch.float32,
    heads=((2, 2), (4, 2)),
    lengths=(96, 64),
    flex_lengths=(64,),
    check_length=3 * 32 + 13,
    real_length=32 + 13,
    kernel_length=64,
    rounds=1,
    cache_lengths=(64,),
    step_lengths=(96,),
    model=_TINY_MODEL,
    side=64,
    copied=1 << 16,
)


def sizes_for(device: str, quick: bool) -> Sizes:
    """The sizes of a run; a CPU is given the small ones alone.

    Raises:
        ValueError: for the full sizes on a CPU.
    """
    if quick:
        return replace(_QUICK, options=replace(_QUICK.options, device=device))
    if device == "cpu":
        raise ValueError("device='cpu' has small sizes alone; add --quick, or see benchmarks/attention.py")
    return _REPORTED
