# SPDX-License-Identifier: Apache-2.0
"""Attention over long sequences as functions on plain tensors: span-expanded, sliding window, shifted sparse."""

from importlib import import_module
from typing import Any, List

__all__ = [
    "DecodeState",
    "SequenceLayout",
    "SpanOptions",
    "block_attention",
    "flash_attn_forward",
    "merge_attention",
    "select_blocks",
    "shifted_sparse_attention",
    "sliding_window_attention",
    "span_attention",
    "span_decode",
    "supports_flash_attn",
]

# Imported when somebody asks for them: options are read without the seconds that torch takes to import.
_EXPORTS = {
    "DecodeState": "decode",
    "SequenceLayout": "layout",
    "SpanOptions": "options",
    "block_attention": "given",
    "flash_attn_forward": "interface",
    "merge_attention": "given",
    "select_blocks": "attention",
    "shifted_sparse_attention": "attention",
    "sliding_window_attention": "attention",
    "span_attention": "attention",
    "span_decode": "decode",
    "supports_flash_attn": "interface",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value  # found without being asked for the next time
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *_EXPORTS})
