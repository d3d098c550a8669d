# SPDX-License-Identifier: Apache-2.0
"""Span-expanded attention as the attention function of a transformers model, without transformers.

transformers takes a kernel from the Hub as `attn_implementation="organisation/name"` if it offers `flash_attn_forward`
and `supports_flash_attn`. The hylora package registers functions of its own, made of the same pieces, which do more:
packed input of models that show it to nobody, several chunk sizes, random choices per layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from .attention import sliding_window_attention, span_attention
from .decode import DecodeState, span_decode
from .layout import SequenceLayout
from .options import CONFIG_ATTRIBUTE, SpanOptions
from .plain import masked_attention
from .scoring import Scoring
from .visibility import layout_of_continuation, layout_of_mask

# What an attention layer may ask for, silence about which would be a wrong answer.
_REFUSED = {
    "position_bias": "an additive position bias",
    "output_attentions": "attention weights",
}
# Options on a model's config that belong to other attentions.
_OTHERS = ("window", "group")

supports_flash_attn = True


def flash_attn_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Optional[Tensor],
    dropout: float = 0.0,
    scaling: Optional[float] = None,
    sliding_window: Optional[int] = None,
    softcap: Optional[float] = None,
    s_aux: Optional[Tensor] = None,
    **kwargs: Any,
) -> Tuple[Tensor, None]:
    """The attention of one layer of a transformers model.

    Options of `span_attention` are read from the dictionary `module.config.span_attention`, where there is one; of
    several chunk sizes the largest counts. Queries that continue a cache get what `span_attention` would give them
    behind the tokens it holds, if keys are enough to tell: beyond the first chunk it takes `selection="token"` and a
    summary made of keys, or retrieval by chance or none. Each such call reads the whole cache to summarize it.

    A layer with a sliding window of its own keeps it: it gets `sliding_window_attention`, and behind a cache attention
    to what its mask shows.

    Args:
        module: the layer.
        query: `[B, Hq, Lq, D]`, after rotary embedding.
        key: `[B, Hkv, Lk, D]`; in a prompt the keys behind the first Lq are those of a static cache, not yet filled.
        value: `[B, Hkv, Lk, Dv]`.
        attention_mask: `[B, 1, Lq, Lk]` bool, True where a query sees a key; None means causal without padding.
        dropout: must be 0.
        scaling: factor on the scores; None means 1 / sqrt(D).
        sliding_window: tokens that the layer's queries see, each itself included; None means all.
        softcap: as in `span_attention`.
        s_aux: `[Hq]`, the sinks of `span_attention`.
        **kwargs: what else the layer says. What would change the result is refused.

    Returns:
        The output `[B, Lq, Hq, Dv]`, and None for the weights.

    Raises:
        ValueError: for what is not computed, and for a mask that shows anything but causal sequences and padding.
    """
    refuse_unknown("span-expanded attention", module, dropout, kwargs)
    is_prompt = _is_prompt(query, key, attention_mask)
    query, key, value = prompt_tensors(query, key, value, query.shape[2] if is_prompt else key.shape[2])
    scores = {"scale": scaling, "softcap": softcap, "sinks": s_aux}
    if is_prompt:
        mask = None if attention_mask is None else attention_mask[..., : query.shape[2]]
        layout = None if mask is None else layout_of_mask(mask, query, sliding_window)
        if sliding_window is None:
            output = span_attention(query, key, value, layout=layout, **scores, **_options(module))
        else:
            output = sliding_window_attention(query, key, value, layout=layout, window=sliding_window, **scores)
    elif sliding_window is None:
        output = _continue(query, key, value, attention_mask, SpanOptions(**_options(module)), **scores)
    else:
        scoring = Scoring.of(query, scaling, softcap)
        output = masked_attention(query, key, value, attention_mask, scoring, s_aux)
    return tokens_first(output), None


def refuse_unknown(name: str, module: nn.Module, dropout: float, kwargs: Dict[str, Any]):
    """Refuse what an attention layer may ask for and these functions do not compute.

    Args:
        name: of the attention, for messages.
        module: the layer.
        dropout: of the weights.
        kwargs: what the layer says beside its tensors.

    Raises:
        ValueError: naming the argument.
    """
    for argument, meaning in _REFUSED.items():
        asked = kwargs.get(argument)
        if asked is not None and asked is not False:
            raise ValueError(f"{name} does not compute {meaning} ({argument}={asked!r}); use 'eager'")
    if dropout:
        raise ValueError(
            f"{name} has no attention dropout; set attention_dropout (now {dropout}) to 0.0 on model.config"
        )
    if not getattr(module, "is_causal", True) or kwargs.get("is_causal") is False:
        raise ValueError(f"{name} is causal, and {type(module).__name__} attends in both directions; use 'sdpa'")


def prompt_tensors(
    query: Tensor, key: Tensor, value: Tensor, held: Optional[int] = None
) -> Tuple[Tensor, Tensor, Tensor]:
    """The tensors of a whole input, or of what continues one, in one dtype and without room for later tokens.

    Args:
        query: `[B, Hq, L, D]`.
        key: `[B, Hkv, Lk, D]`; a static cache is longer than what it holds.
        value: likewise.
        held: tokens that the keys hold; None means those of the query.

    Returns:
        Query, key and value. Under autocast a norm or RoPE in float32 leaves queries and keys wider than the values,
        whose dtype they get.
    """
    key, value = (x[:, :, : query.shape[2] if held is None else held] for x in (key, value))
    return query.to(value.dtype), key.to(value.dtype), value


def tokens_first(output: Tensor) -> Tensor:
    """`[B, Hq, L, D]` as layers take it, `[B, L, Hq, D]`."""
    return output.transpose(1, 2).contiguous()


def _continue(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Optional[Tensor],
    options: SpanOptions,
    scale: Optional[float],
    softcap: Optional[float],
    sinks: Optional[Tensor],
) -> Tensor:
    """The attention `[B, Hq, n, D]` of queries whose keys are the last of those that a cache holds."""
    if torch.is_grad_enabled() and query.requires_grad:
        raise ValueError("no gradient flows through a cache; use torch.no_grad(), or pass all tokens with no cache")
    if mask is None:
        layout = SequenceLayout.dense(key.shape[0], key.shape[2])
    else:
        layout = layout_of_continuation(mask, query)
    if layout.longest <= options.chunk_size:
        options = replace(options, retrieval="none")
    elif options.reads_other_queries:
        raise ValueError(
            f"selection={options.selection!r} with summary={options.summary!r} retrieves by the queries of other "
            f"tokens, of which a cache holds none; to continue more than chunk_size={options.chunk_size} tokens set "
            "selection='token' and summary='mean_std' in config.span_attention, or generate with use_cache=False"
        )
    key, value = (x[:, :, : layout.length] for x in (key, value))
    before = layout.length - query.shape[2]
    old = [(row, start, before - start) for row, start, _ in layout.sequences if start < before]
    new = [(row, max(start - before, 0), min(query.shape[2], length)) for row, start, length in layout.sequences]
    past = SequenceLayout(layout.batch, before, tuple(old))
    unread = query[:, :, :1].expand(-1, -1, before, -1)
    held = unread, key[:, :, :before], value[:, :, :before]
    settings = {"capacity": layout.length, "scale": scale, "softcap": softcap}
    state = DecodeState.from_prefill(*held, options, layout=past, **settings)
    tokens = SequenceLayout(layout.batch, query.shape[2], tuple(new))
    given = None if tokens.is_dense else tokens
    return span_decode(query, key[:, :, before:], value[:, :, before:], state, layout=given, sinks=sinks)


def _is_prompt(query: Tensor, key: Tensor, mask: Optional[Tensor]) -> bool:
    """Whether the queries are a whole input, so that even the last of them sees no key behind as many."""
    length, held = query.shape[2], key.shape[2]
    if length == 1 or held <= length:
        return held == length
    return mask is None or not bool(mask[:, :, -1, length:].any())


def _options(module: nn.Module) -> Dict[str, Any]:
    """Keyword arguments of `span_attention`."""
    kept = getattr(getattr(module, "config", None), CONFIG_ATTRIBUTE, None) or {}
    options = {name: value for name, value in kept.items() if name not in _OTHERS}
    sizes = options.get("chunk_size")
    return {**options, "chunk_size": max(sizes)} if isinstance(sizes, (list, tuple)) else options
