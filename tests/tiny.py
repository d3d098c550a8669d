# SPDX-License-Identifier: Apache-2.0
"""Tiny random language models for tests: real architectures, a few ten thousand parameters."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BambaForCausalLM, LlamaForCausalLM, PreTrainedModel

from hylora.models.mamba2attn import Mamba2AttnForCausalLM


def tiny_bamba(*, seed: int = 0, **overrides) -> BambaForCausalLM:
    """A four-layer Bamba with attention in layers 1 and 3 (4 query heads, 2 KV heads).

    Args:
        seed: of the random weights; the global generator is left as it was.
        **overrides: fields of `BambaConfig`, such as `attn_layer_indices=[]` or `tie_word_embeddings=True`;
            `attn_implementation` and `dtype` go to the model.

    Returns:
        The model in evaluation mode, float32 unless `dtype` says otherwise.
    """
    fields = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attn_layer_indices": [1, 3],
        "mamba_n_heads": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "mamba_chunk_size": 16,
        "max_position_embeddings": 4096,
    }
    return tiny_model("bamba", fields, seed, overrides)


def tiny_llama(*, seed: int = 0, **overrides) -> LlamaForCausalLM:
    """A two-layer Llama (4 query heads, 2 KV heads).

    Args:
        seed: of the random weights; the global generator is left as it was.
        **overrides: fields of `LlamaConfig`; `attn_implementation` and `dtype` go to the model.

    Returns:
        The model in evaluation mode, float32 unless `dtype` says otherwise.
    """
    fields = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
    }
    return tiny_model("llama", fields, seed, overrides)


def tiny_qwen2(*, seed: int = 0, **overrides) -> PreTrainedModel:
    """A four-layer Qwen2 (4 query heads, 2 KV heads) with a window of 8 in layers 0 and 2.

    Args:
        seed: of the random weights; the global generator is left as it was.
        **overrides: fields of `Qwen2Config`; `attn_implementation` and `dtype` go to the model.

    Returns:
        The model in evaluation mode, float32 unless `dtype` says otherwise.
    """
    fields = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "use_sliding_window": True,
        "sliding_window": 8,
    }
    return tiny_model("qwen2", fields, seed, overrides)


def tiny_mamba2attn(*, seed: int = 0, **overrides) -> Mamba2AttnForCausalLM:
    """A four-layer mamba2attn with attention in layers 1 and 3 (4 query heads, 2 KV heads).

    Args:
        seed: of the random weights; the global generator is left as it was.
        **overrides: fields of `Mamba2AttnConfig`; `attn_implementation` and `dtype` go to the model.

    Returns:
        The model in evaluation mode, float32 unless `dtype` says otherwise.
    """
    fields = {
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "hybrid"] * 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 16,
    }
    return tiny_model("mamba2attn", fields, seed, overrides)


def tiny_model(model_type: str, fields: dict, seed: int, overrides: dict) -> PreTrainedModel:
    """A random causal language model of any architecture.

    Args:
        model_type: as transformers calls the architecture.
        fields: of its config.
        seed: of the random weights; the global generator is left as it was.
        overrides: further fields of the config; `attn_implementation` and `dtype` go to the model.

    Returns:
        The model in evaluation mode, float32 unless `dtype` says otherwise.
    """
    build = {key: overrides.pop(key) for key in ("attn_implementation", "dtype") if key in overrides}
    # wide enough that layers matter: at the default 0.02 a model this small is close to the identity
    config = AutoConfig.for_model(model_type, **{"initializer_range": 0.2, **fields, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, **build).eval()
