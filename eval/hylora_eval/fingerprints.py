# SPDX-License-Identifier: Apache-2.0
"""What tells two models or two tokenizers apart, as results record it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from hylora.attention import SpanConfig
from hylora.attention.functions import FUNCTIONS

__all__ = ["describe_attention", "describe_tokenizer", "text_sha256", "tokenizer_sha256", "weights_sha256"]

# Numbers of each parameter that are looked at: training changes all, and reading all would take long.
NUMBERS = 16


def text_sha256(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what a tokenizer does: of its whole definition if it is a fast one, of its vocabulary otherwise."""
    if tokenizer.is_fast:
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        # The last call's, not the tokenizer's.
        for setting in ("padding", "truncation"):
            definition.pop(setting, None)
    else:
        definition = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    return text_sha256(json.dumps(definition, sort_keys=True))


def describe_attention(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """The name of the attention a model computes with, and its options; none where it is not one of hylora's."""
    name = model.config._attn_implementation
    return name, SpanConfig.of(model.config.get_text_config()).to_dict() if name in FUNCTIONS else {}


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a result says of a tokenizer."""
    return {
        "path": tokenizer.name_or_path,
        "vocabulary": len(tokenizer),
        "sha256": tokenizer_sha256(tokenizer),
    }


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of the first numbers of every parameter, with their names."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        numbers = parameter.detach().flatten()[:NUMBERS].float().cpu().numpy()
        digest.update(name.encode() + numbers.astype("<f4").tobytes())
    return digest.hexdigest()
