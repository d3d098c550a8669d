# SPDX-License-Identifier: Apache-2.0
"""What each attention layer of a model computes with, while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hylora.attention import Prefill, SpanConfig, kernel_options
from hylora_kernels import SequenceLayout, select_blocks
from hylora_kernels.options import SpanOptions

__all__ = ["AttentionCall", "observe_attention"]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of `se_attn`.

    Attributes:
        query: after RoPE [B, Hq, L, D].
        key: after RoPE [B, Hkv, L, D].
        value: likewise.
        layout: the sequences in the batch.
        options: of this layer in this forward pass.
        scale: factor on the scores, None for 1 / sqrt(D).
        backend: that computes.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    layout: SequenceLayout
    options: SpanOptions
    scale: float | None
    backend: str

    def retrieved(self) -> list[Tensor]:
        """The blocks that the call retrieves for each sequence, as `hylora_kernels.select_blocks` gives them."""
        return select_blocks(
            self.query,
            self.key,
            self.value,
            self.options,
            layout=self.layout,
            scale=self.scale,
            backend=self.backend,
        )


@contextmanager
def observe_attention(model: nn.Module, observe: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Show a model's calls of `se_attn` in evaluation, layer by layer, to a function before they are computed."""
    original, layers = ALL_ATTENTION_FUNCTIONS["se_attn"], set(model.modules())

    def observed(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Prefill, **kwargs: Any
    ) -> Any:
        if module not in layers:
            return original(module, query, key, value, attention_mask, **kwargs)
        config = SpanConfig.of(module.config)
        options = kernel_options(config, None, attention_mask.ordinal(module))
        # As the function itself does: under autocast RoPE leaves queries and keys wider than the values.
        call = AttentionCall(
            query.to(value.dtype),
            key.to(value.dtype),
            value,
            attention_mask.layout,
            options,
            kwargs.get("scaling"),
            config.backend,
        )
        observe(call)
        return original(module, query, key, value, attention_mask, **kwargs)

    # Queries and keys after RoPE are seen nowhere but in the attention function, and models look it up by name in
    # each forward pass; so the name points to the observer for as long as this lasts. Other models pass through.
    ALL_ATTENTION_FUNCTIONS["se_attn"] = observed
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["se_attn"] = original
