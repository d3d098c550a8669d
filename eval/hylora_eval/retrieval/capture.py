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
from hylora_kernels.options import SpanOptions

__all__ = ["AttentionCall", "observe_attention"]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one layer's attention is called with, for one sequence.

    Attributes:
        query: after RoPE [Hq, L, D].
        key: after RoPE [Hkv, L, D].
        value: likewise.
        scale: factor on the scores.
        own: the options of the layer's own attention if that is "se_attn", otherwise None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    own: SpanOptions | None = None


@contextmanager
def observe_attention(model: nn.Module, observe: Callable[[list[AttentionCall]], None]) -> Iterator[None]:
    """Show a model's attention calls in evaluation to a function before they are computed.

    Layers with a sliding window of their own, which retrieve nothing under any attention, are passed over.

    Args:
        model: of which no row is padded.
        observe: called for one layer after the other with a call for each row of the batch.

    Raises:
        ValueError: if the model's attention is none that transformers looks up by its name.
    """
    name, layers = model.config._attn_implementation, set(model.modules())
    if name not in ALL_ATTENTION_FUNCTIONS:
        raise ValueError(
            f"the model's attention is {name!r}, which cannot be observed; choose hylora.set_attention(model, 'full') "
            "or another one first"
        )
    original = ALL_ATTENTION_FUNCTIONS[name]

    def observed(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> Any:
        prefill = isinstance(attention_mask, Prefill)
        window = attention_mask.window if prefill else kwargs.get("sliding_window")
        if module in layers and window is None:
            own = None
            if prefill and name.startswith("se_attn"):
                own = kernel_options(SpanConfig.of(module.config), None, attention_mask.ordinal(module))
            scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
            # Under autocast RoPE leaves queries and keys wider than the values; attention itself casts them too.
            rows = zip(query.to(value.dtype), key.to(value.dtype), value, strict=True)
            observe([AttentionCall(*row, scale, own) for row in rows])
        return original(module, query, key, value, attention_mask, **kwargs)

    # Queries and keys after RoPE are seen nowhere but in the attention function, and models look it up by name in
    # each forward pass; so the name points to the observer for as long as this lasts. Other models pass through.
    ALL_ATTENTION_FUNCTIONS[name] = observed
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[name] = original
