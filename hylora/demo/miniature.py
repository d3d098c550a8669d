# SPDX-License-Identifier: Apache-2.0
"""The shipped checkpoint: a Bamba of half a million parameters that recalls by attention."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

ASSETS = Path(__file__).parent / "assets"
# Tokens of a row that the checkpoint was trained on, and facts scattered in the text of such a row.
CONTEXT = 64
FACTS = 4

__all__ = ["ASSETS", "CONTEXT", "FACTS", "load_miniature", "load_tokenizer"]


def load_miniature() -> nn.Module:
    """The checkpoint in float32 and evaluation mode, with full attention."""
    import hylora

    return hylora.load(ASSETS, "full", dtype=torch.float32)


def load_tokenizer() -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer."""
    return AutoTokenizer.from_pretrained(ASSETS)
