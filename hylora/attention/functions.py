# SPDX-License-Identifier: Apache-2.0
"""The attention functions that transformers' attention layers call, one per plug-in name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from hylora.attention.config import SpanConfig
from hylora.attention.masks import CachedKeys, Prefill, span_mask
from hylora.attention.new_tokens import NewTokens
from hylora.attention.packing import settle_packing
from hylora.attention.windows import own_window
from hylora.randomness import derive_key
from hylora_kernels import (
    SequenceLayout,
    SpanOptions,
    shifted_sparse_attention,
    sliding_window_attention,
    span_attention,
)
from hylora_kernels.interface import prompt_tensors, refuse_unknown, tokens_first
from hylora_kernels.plain import masked_attention
from hylora_kernels.scoring import Scoring

__all__ = ["FUNCTIONS", "chunk_size_of", "kernel_options"]


def chunk_size_of(options: SpanConfig, draw: int | None, layer: int) -> int:
    """This layer's chunk size: the largest in evaluation (no draw), else one drawn from the set (section 6.3.2)."""
    sizes = options.chunk_sizes
    if draw is None or len(sizes) == 1:
        return max(sizes)
    return sizes[_key("chunk size", options.seed, draw, layer) % len(sizes)]


def kernel_options(options: SpanConfig, draw: int | None, layer: int) -> SpanOptions:
    """The kernels' options for one layer of one forward pass."""
    chosen = options.with_chunks_of(chunk_size_of(options, draw, layer))
    # Random blocks differ between layers and training steps; the landmark query must not.
    if chosen.retrieval != "random":
        return chosen
    return replace(chosen, seed=_key("random blocks", options.seed, draw or 0, layer))


@torch.compiler.assume_constant_result  # graphs cannot hash
def _key(*parts: int | str) -> int:
    return derive_key(*parts)


def _span(query, key, value, layout: SequenceLayout, options: SpanConfig, chance, **scores):
    chosen = kernel_options(options, *chance)
    if isinstance(key, NewTokens):
        return key.layer.attend(query, key, layout, chosen, options.backend, **scores)
    return span_attention(query, key, value, chosen, layout=layout, backend=options.backend, **scores)


def _sliding(query, key, value, layout: SequenceLayout, options: SpanConfig, chance, **scores):
    return _window(query, key, value, layout, options.window, options.backend, **scores)


def _window(query, key, value, layout: SequenceLayout, window: int, backend: str, **scores):
    return sliding_window_attention(query, key, value, layout=layout, window=window, backend=backend, **scores)


def _shifted(query, key, value, layout: SequenceLayout, options: SpanConfig, chance, **scores):
    group = options.group
    return shifted_sparse_attention(query, key, value, layout=layout, group=group, backend=options.backend, **scores)


def _plug_in(name: str, compute: Callable[..., torch.Tensor]) -> Callable:
    def forward(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Prefill | CachedKeys | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        refuse_unknown(name, module, dropout, kwargs)
        scores = {"scale": scaling, "softcap": softcap, "sinks": s_aux}
        if isinstance(attention_mask, CachedKeys):
            output = masked_attention(
                query, key, value, attention_mask.mask, Scoring.of(query, scaling, softcap), s_aux
            )
        elif isinstance(attention_mask, Prefill):
            layout = settle_packing(name, module.config, query, attention_mask, kwargs)
            options = SpanConfig.of(module.config)
            if isinstance(key, NewTokens):
                key.layer.check(query, layout, attention_mask.before, module.config)
            else:
                query, key, value = prompt_tensors(query, key, value)
            window = own_window(name, module, attention_mask, sliding_window)
            if window is None:
                chance = _chance(module, attention_mask, options)
                output = compute(query, key, value, layout, options, chance, **scores)
            else:
                output = _window(query, key, value, layout, window, options.backend, **scores)
        elif attention_mask is None and kwargs.get("is_causal"):
            raise ValueError(
                f"{name} got no mask, as context parallelism (accelerate's cp_size) has it, which gives a process a "
                "part of each sequence: chunks, windows and blocks would end at its edges. Set cp_size to 1; FSDP2, "
                "gradient checkpointing and offloaded activations also make room for long sequences"
            )
        else:
            raise ValueError(
                f"{name} got {_describe(attention_mask)} as its mask; pass padding as a two-dimensional "
                "attention_mask ([batch, length], 1 for real tokens), or use 'sdpa' for other masks"
            )
        return tokens_first(output), None

    forward.__name__ = f"{name}_forward"
    forward.__doc__ = (
        f"`{name}` for transformers' attention layers: q [B, Hq, L, D], k [B, Hkv, L, D], v [B, Hkv, L, Dv]."
    )
    return forward


def _chance(module: nn.Module, prefill: Prefill, options: SpanConfig) -> tuple[int | None, int]:
    """All that a layer's random choices depend on: the draw of this pass (None in evaluation), the layer's number."""
    drawing = module.training and prefill.draw is not None
    if not torch.compiler.is_compiling():
        return int(prefill.draw) if drawing else None, prefill.ordinal(module)
    random = options.retrieval == "random"
    if drawing and (random or len(options.chunk_sizes) > 1):
        raise ValueError(
            f"chunk_size={options.chunk_size} with retrieval={options.retrieval!r} is drawn anew in every training "
            "step, and a compiled graph repeats what it was compiled with; give one chunk_size and no random "
            "retrieval, or compile without fullgraph=True"
        )
    # Counting layers changes the Prefill, which a checkpointed layer inside a graph may not.
    return None, prefill.ordinal(module) if random else 0


def _describe(mask: Any) -> str:
    return f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else repr(mask)


FUNCTIONS: dict[str, Callable] = {
    "se_attn": _plug_in("se_attn", _span),
    "se_attn_recall": _plug_in("se_attn_recall", _span),
    "sw_attn": _plug_in("sw_attn", _sliding),
    "s2_attn": _plug_in("s2_attn", _shifted),
}


# Without a mask function beside each of them transformers would pass no mask at all, and padding would be attended to.
for _name, _function in FUNCTIONS.items():
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, span_mask)
