# SPDX-License-Identifier: Apache-2.0
"""Attention over long sequences as functions on plain tensors: span-expanded, sliding window, shifted sparse."""

from .attention import select_blocks, shifted_sparse_attention, sliding_window_attention, span_attention
from .layout import SequenceLayout

__all__ = [
    "SequenceLayout",
    "select_blocks",
    "shifted_sparse_attention",
    "sliding_window_attention",
    "span_attention",
]
