# SPDX-License-Identifier: Apache-2.0
"""Make the attention functions known to transformers under their names."""

from __future__ import annotations

from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from hylora.attention.functions import FUNCTIONS
from hylora.attention.masks import span_mask

__all__ = ["register_attention"]


def register_attention() -> None:
    """Register `se_attn`, `sw_attn` and `s2_attn`; models that do not ask for them by name are not touched.

    The mask function is registered beside each attention function: without it transformers would pass no mask at all,
    and padding would be attended to.
    """
    for name, function in FUNCTIONS.items():
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, span_mask)
