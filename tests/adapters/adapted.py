# SPDX-License-Identifier: Apache-2.0
"""Tiny models with an adapter that does something, shared by the tests of this folder."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from hylora.adapters import HyLoraConfig, add_adapter
from tests.tiny import tiny_bamba, tiny_llama

IDS = torch.arange(66).reshape(2, 33) * 7 % 90 + 3
MODELS = {
    "bamba-hylora": (tiny_bamba, "hylora", False),
    "bamba-hylora-tied": (tiny_bamba, "hylora", True),
    "bamba-lora": (tiny_bamba, "lora", False),
    "llama-longlora": (tiny_llama, "longlora", False),
    "llama-longlora-tied": (tiny_llama, "longlora", True),
}
every_model = pytest.mark.parametrize(("build", "variant", "tied"), MODELS.values(), ids=MODELS)


def adapted(build, variant, tied=False, dtype=torch.float32, seed=1) -> PeftModel:
    """A tiny model with an adapter of rank 4 whose every parameter was nudged, as if it had been trained."""
    model = build(tie_word_embeddings=tied, dtype=dtype)
    return nudge(add_adapter(model, HyLoraConfig.for_model(model, variant, r=4, lora_alpha=8)), seed)


def nudge(model: PeftModel, seed: int, size: float = 0.1) -> PeftModel:
    """Move every trainable parameter by seeded noise of a size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = size * torch.randn(parameter.shape, generator=generator)
                # LoRA starts from an unseeded draw
                parameter.copy_(noise if "lora_" in name else parameter + noise)
    return model
