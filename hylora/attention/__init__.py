# SPDX-License-Identifier: Apache-2.0
"""SE-Attn and its rivals inside transformers: options, masks, attention functions, and the switch between them."""

from hylora.attention.config import SpanConfig, expand_preset
from hylora.attention.functions import chunk_size_of, kernel_options, register_attention
from hylora.attention.masks import CachedKeys, Prefill, span_mask
from hylora.attention.switch import (
    ATTENTION_NAMES,
    check_attention,
    check_options,
    resolve_name,
    set_attention,
)

__all__ = [
    "ATTENTION_NAMES",
    "CachedKeys",
    "Prefill",
    "SpanConfig",
    "check_attention",
    "check_options",
    "chunk_size_of",
    "expand_preset",
    "kernel_options",
    "register_attention",
    "resolve_name",
    "set_attention",
    "span_mask",
]
