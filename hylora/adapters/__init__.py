# SPDX-License-Identifier: Apache-2.0
"""HyLoRA: LoRA on attention, full training of embeddings, norms and short convolutions, on top of PEFT."""

from hylora.adapters.config import HyLoraConfig
from hylora.adapters.merge import merge_adapter
from hylora.adapters.model import add_adapter, load_adapter, match_base_dtype
from hylora.adapters.report import print_trainable_parameters, trainable_groups

__all__ = [
    "HyLoraConfig",
    "add_adapter",
    "load_adapter",
    "match_base_dtype",
    "merge_adapter",
    "print_trainable_parameters",
    "trainable_groups",
]
