# SPDX-License-Identifier: Apache-2.0
"""Models that transformers does not have, made known to its Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from hylora.models.mamba2attn import Mamba2AttnConfig, Mamba2AttnForCausalLM, Mamba2AttnModel

__all__ = ["register_models"]


def register_models() -> None:
    """Register `mamba2attn`, so that `AutoModelForCausalLM.from_pretrained` loads what `hylora convert` wrote."""
    AutoConfig.register(Mamba2AttnConfig.model_type, Mamba2AttnConfig)
    AutoModel.register(Mamba2AttnConfig, Mamba2AttnModel)
    AutoModelForCausalLM.register(Mamba2AttnConfig, Mamba2AttnForCausalLM)
