# SPDX-License-Identifier: Apache-2.0
"""Span-expanded attention as the attention function of a transformers model, without transformers.

transformers takes a kernel from the Hub as `attn_implementation="organisation/name"` if it offers `flash_attn_forward`
and `supports_flash_attn`. The hylora package registers functions of its own, made of the same pieces, which do more:
packed input of models that show it to nobody, several chunk sizes, random choices per layer.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .attention import span_attention
from .options import CONFIG_ATTRIBUTE
from .visibility import layout_of_mask

# What an attention layer may ask for and these functions do not compute; silence would be a wrong answer.
_REFUSED = {
    "sliding_window": "the model's own sliding window",
    "softcap": "logit soft-capping",
    "s_aux": "attention sinks",
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
    **kwargs: Any,
) -> Tuple[Tensor, None]:
    """The attention of one layer of a transformers model.

    Options of `span_attention` are read from the dictionary `module.config.span_attention`, where there is one; of
    several chunk sizes the largest counts. Queries that continue a cache get full attention over it.

    Args:
        module: the layer.
        query: `[B, Hq, Lq, D]`, after rotary embedding.
        key: `[B, Hkv, Lk, D]`; in a prompt the keys behind the first Lq are those of a static cache, not yet filled.
        value: `[B, Hkv, Lk, D]`.
        attention_mask: `[B, 1, Lq, Lk]` bool, True where a query sees a key; None means causal without padding.
        dropout: must be 0.
        scaling: factor on the scores; None means 1 / sqrt(D).
        **kwargs: what else the layer says. What would change the result is refused.

    Returns:
        The output `[B, Lq, Hq, D]`, and None for the weights.

    Raises:
        ValueError: for what is not computed, and for a mask that shows anything but causal sequences and padding.
    """
    refuse_unknown("span-expanded attention", module, dropout, kwargs)
    if not _is_prompt(query, key, attention_mask):
        return tokens_first(attend_to_cache(query, key, value, attention_mask, scaling)), None
    query, key, value = prompt_tensors(query, key, value)
    layout = None if attention_mask is None else layout_of_mask(attention_mask[..., : query.shape[2]], query)
    output = span_attention(query, key, value, layout=layout, scale=scaling, **_options(module))
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


def prompt_tensors(query: Tensor, key: Tensor, value: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """The tensors of a whole input, of one length and dtype.

    Args:
        query: `[B, Hq, L, D]`.
        key: `[B, Hkv, Lk, D]`; a static cache is longer than what it holds.
        value: likewise.

    Returns:
        Query, key and value. Under autocast a norm or RoPE in float32 leaves queries and keys wider than the values,
        whose dtype they get.
    """
    key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    return query.to(value.dtype), key.to(value.dtype), value


def tokens_first(output: Tensor) -> Tensor:
    """`[B, Hq, L, D]` as layers take it, `[B, L, Hq, D]`."""
    return output.transpose(1, 2).contiguous()


def attend_to_cache(
    query: Tensor, key: Tensor, value: Tensor, mask: Optional[Tensor], scale: Optional[float]
) -> Tensor:
    """Full attention of queries that continue a cache.

    Args:
        query: `[B, Hq, Lq, D]`.
        key: `[B, Hkv, Lk, D]`; without a mask, several queries are the first of the keys.
        value: `[B, Hkv, Lk, D]`.
        mask: `[B, 1, Lq, Lk]` bool, or None.
        scale: factor on the scores; None means 1 / sqrt(D).

    Returns:
        `[B, Hq, Lq, D]`.
    """
    causal = mask is None and query.shape[2] > 1
    if causal and key.shape[2] > query.shape[2]:
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _is_prompt(query: Tensor, key: Tensor, mask: Optional[Tensor]) -> bool:
    """Whether the queries are a whole input, so that even the last of them sees no key behind as many."""
    length, held = query.shape[2], key.shape[2]
    if length == 1 or held < length:
        return False
    return held == length or mask is None or not bool(mask[:, :, -1, length:].any())


def _options(module: nn.Module) -> Dict[str, Any]:
    """Keyword arguments of `span_attention`."""
    kept = getattr(getattr(module, "config", None), CONFIG_ATTRIBUTE, None) or {}
    options = {name: value for name, value in kept.items() if name not in _OTHERS}
    sizes = options.get("chunk_size")
    return {**options, "chunk_size": max(sizes)} if isinstance(sizes, (list, tuple)) else options
