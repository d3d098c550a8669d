# SPDX-License-Identifier: Apache-2.0
"""Attention over long sequences as functions on plain tensors: span-expanded, sliding window, shifted sparse."""

from .attention import select_blocks, shifted_sparse_attention, sliding_window_attention, span_attention
from .decode import DecodeState, span_decode
from .interface import flash_attn_forward, supports_flash_attn
from .layout import SequenceLayout
from .options import SpanOptions

__all__ = [
    "DecodeState",
    "SequenceLayout",
    "SpanOptions",
    "flash_attn_forward",
    "select_blocks",
    "shifted_sparse_attention",
    "sliding_window_attention",
    "span_attention",
    "span_decode",
    "supports_flash_attn",
]
