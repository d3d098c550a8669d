# SPDX-License-Identifier: Apache-2.0
"""SE-Attn and its rivals inside transformers: options, masks, attention functions, and the switch between them."""

from hylora.lazy import lazy_exports

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
    "resolve_name",
    "set_attention",
    "span_mask",
]

_EXPORTS = {
    "ATTENTION_NAMES": "hylora.attention.names",
    "CachedKeys": "hylora.attention.masks",
    "Prefill": "hylora.attention.masks",
    "SpanConfig": "hylora.attention.config",
    "check_attention": "hylora.attention.switch",
    "check_options": "hylora.attention.names",
    "chunk_size_of": "hylora.attention.functions",
    "expand_preset": "hylora.attention.config",
    "kernel_options": "hylora.attention.functions",
    "resolve_name": "hylora.attention.names",
    "set_attention": "hylora.attention.switch",
    "span_mask": "hylora.attention.masks",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
