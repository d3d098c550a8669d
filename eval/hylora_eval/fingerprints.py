# SPDX-License-Identifier: Apache-2.0
"""What tells two models or two tokenizers apart, as results record it."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from hylora.attention import SpanConfig
from hylora.attention.names import PLUG_INS
from hylora.runs.fingerprint import tokenizer_fingerprint, weights_fingerprint

__all__ = ["describe_attention", "describe_model", "describe_tokenizer", "text_sha256"]


def text_sha256(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def describe_attention(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """The name of the attention a model computes with, and its options; none where it is not one of hylora's."""
    name = model.config._attn_implementation
    return name, SpanConfig.of(model.config.get_text_config()).to_dict() if name in PLUG_INS else {}


def describe_model(model: nn.Module) -> dict[str, Any]:
    """All that what a model computes depends on: weights, dtype, attention and positions."""
    attention, options = describe_attention(model)
    return {
        "dtype": str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "attention": attention,
        "attention_options": options,
        "rope_parameters": getattr(model.config.get_text_config(), "rope_parameters", None),
        "weights": weights_fingerprint(model),
    }


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a result says of a tokenizer."""
    return {
        "path": tokenizer.name_or_path,
        "vocabulary": len(tokenizer),
        "fingerprint": tokenizer_fingerprint(tokenizer),
    }
