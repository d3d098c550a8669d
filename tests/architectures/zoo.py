# SPDX-License-Identifier: Apache-2.0
"""One tiny random model per architecture, and what is known of it from its config alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

import hylora  # noqa: F401  registers mamba2attn
from tests.tiny import tiny_model

# Sizes that most configs call by the same names.
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    # Wide enough that every layer matters, and narrow enough that rounding does not grow through Zamba2's.
    "initializer_range": 0.12,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_state": 16, "mamba_expand": 2, "mamba_chunk_size": 16}
# LoRA parameters of one attention layer at rank 1: inputs and outputs of q, k, v and o. Four heads of 8 make 32
# queries, two make 16 keys and 16 values.
GROUPED = (32 + 32) + 2 * (32 + 16) + (32 + 32)


@dataclass(frozen=True)
class Architecture:
    """A tiny model and the facts that the tests compare with.

    Args:
        model_type: as transformers calls it.
        fields: of its config.
        attention: indices of the layers that hold attention.
        windowed: of those, the ones with a sliding window of their own.
        projections: linear layers of one attention layer.
        options: of `se_attn`, where the usual ones do not serve.
        recurrent: whether some layer carries a state from token to token.
        lora: parameters of a rank-1 LoRA on every attention projection.
        norms: parameters of all normalisation layers.
        convs: parameters of all depthwise convolutions.
    """

    model_type: str
    fields: dict[str, Any] = field(repr=False)
    attention: tuple[int, ...]
    recurrent: bool
    lora: int
    norms: int
    convs: int
    embeddings: int = 96 * 32
    windowed: tuple[int, ...] = ()
    projections: int = 4
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, *, seed: int = 0, **overrides) -> PreTrainedModel:
        """The model in evaluation mode; overrides are fields of its config, or `attn_implementation` and `dtype`."""
        return tiny_model(self.model_type, {**SIZES, **self.fields}, seed, overrides)


HYBRIDS = (
    Architecture(
        "mamba2attn",
        {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "hybrid"] * 2,
            "head_dim": 8,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_chunk_size": 16,
        },
        attention=(1, 3),
        recurrent=True,
        lora=2 * GROUPED,
        norms=4 * 32 + 32 + 2 * 64,
        # Attention has a convolution as well, over queries, keys and values.
        convs=2 * (64 + 2 * 16) * 5 + 2 * (32 + 16 + 16) * 5,
    ),
    Architecture(
        "bamba",
        {**MAMBA, "num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
        attention=(1, 3),
        recurrent=True,
        lora=2 * GROUPED,
        # Two per layer and the last; each mixer's own over its 64 channels.
        norms=4 * 2 * 32 + 32 + 2 * 64,
        # 64 channels and one group's B and C of 16; four taps and a bias.
        convs=2 * (64 + 2 * 16) * 5,
    ),
    Architecture(
        "zamba2",
        {
            "num_hidden_layers": 5,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "hybrid"],
            "num_mem_blocks": 2,
            "use_mem_rope": True,
            "num_key_value_heads": 4,
            "mamba_d_state": 16,
            "n_mamba_heads": 4,
            "chunk_size": 16,
        },
        attention=(1, 3, 4),
        recurrent=True,
        # Two blocks serve three layers, and read hidden states beside the embeddings.
        lora=2 * (3 * (64 + 64) + (64 + 32)),
        # One per mixer and one inside it, two per block, and the last.
        norms=5 * (32 + 64) + 2 * (64 + 32) + 32,
        convs=5 * (64 + 2 * 16) * 5,
    ),
    Architecture(
        "jamba",
        {
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "expert_layer_period": 4,
            "num_experts_per_tok": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
        attention=(1, 3),
        recurrent=True,
        lora=2 * GROUPED,
        # Each mixer norms its time step (rank 4), B and C (8 each).
        norms=4 * 2 * 32 + 32 + 2 * (4 + 8 + 8),
        convs=2 * 64 * 5,
    ),
    Architecture(
        "falcon_h1",
        {**MAMBA, "num_hidden_layers": 2, "mamba_d_ssm": 64, "mamba_rms_norm": True},
        attention=(0, 1),
        recurrent=True,
        lora=2 * GROUPED,
        norms=2 * (2 * 32 + 64) + 32,
        convs=2 * (64 + 2 * 16) * 5,
    ),
    Architecture(
        "nemotron_h",
        {
            "layers_block_type": ["mamba", "attention", "mlp", "mamba", "attention"],
            "head_dim": 8,
            "ssm_state_size": 16,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "chunk_size": 16,
        },
        attention=(1, 4),
        recurrent=True,
        lora=2 * GROUPED,
        norms=5 * 32 + 32 + 2 * 64,
        convs=2 * (64 + 2 * 16) * 5,
    ),
    Architecture(
        "granitemoehybrid",
        {
            **MAMBA,
            "num_hidden_layers": 4,
            "layer_types": ["mamba", "attention", "mamba", "attention"],
            "attention_multiplier": 0.7,
            "residual_multiplier": 0.5,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "shared_intermediate_size": 48,
        },
        attention=(1, 3),
        recurrent=True,
        lora=2 * GROUPED,
        norms=4 * 2 * 32 + 32 + 2 * 64,
        convs=2 * (64 + 2 * 16) * 5,
    ),
    Architecture(
        "qwen3_next",
        {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
        attention=(1, 3),
        recurrent=True,
        # The query projection makes a gate beside each query.
        lora=2 * (GROUPED + 32),
        # Attention norms queries and keys by head; a mixer norms its outputs by head.
        norms=4 * 2 * 32 + 32 + 2 * (8 + 8) + 2 * 8,
        convs=2 * (16 + 16 + 32) * 4,
    ),
    Architecture(
        "olmo_hybrid",
        {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        attention=(1, 3),
        recurrent=True,
        lora=2 * GROUPED,
        # Attention norms all queries and all keys.
        norms=4 * 2 * 32 + 32 + 2 * (32 + 16) + 2 * 8,
        # One convolution over queries, keys and values, 16 channels each.
        convs=2 * 3 * 16 * 4,
    ),
    Architecture(
        "lfm2",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
        },
        attention=(1, 3),
        recurrent=True,
        lora=2 * GROUPED,
        norms=4 * 2 * 32 + 32 + 2 * (8 + 8),
        convs=2 * 32 * 3,
    ),
)
TRANSFORMERS = (
    Architecture(
        "llama",
        {"num_hidden_layers": 2},
        attention=(0, 1),
        recurrent=False,
        lora=2 * GROUPED,
        norms=2 * 2 * 32 + 32,
        convs=0,
    ),
    Architecture(
        "mistral",
        {"num_hidden_layers": 2, "sliding_window": None},
        attention=(0, 1),
        recurrent=False,
        lora=2 * GROUPED,
        norms=2 * 2 * 32 + 32,
        convs=0,
    ),
    Architecture(
        "qwen3",
        {"num_hidden_layers": 2, "head_dim": 8},
        attention=(0, 1),
        recurrent=False,
        lora=2 * GROUPED,
        norms=2 * (2 * 32 + 8 + 8) + 32,
        convs=0,
    ),
)
# Transformers whose attention does more than the usual: windows in some layers, bounded scores, sinks, small values.
SPECIAL = (
    Architecture(
        "gemma2",
        {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 8,
            "head_dim": 8,
            "query_pre_attn_scalar": 4,
            "attn_logit_softcapping": 1.5,
        },
        attention=(0, 1, 2, 3),
        windowed=(0, 2),
        recurrent=False,
        lora=4 * GROUPED,
        # Two before and two behind attention and feed-forward.
        norms=4 * 4 * 32 + 32,
        convs=0,
    ),
    Architecture(
        "gemma3_text",
        {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "sliding_window": 8,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
        },
        attention=(0, 1, 2, 3),
        windowed=(0, 2),
        recurrent=False,
        lora=4 * GROUPED,
        # Queries and keys are normed by head as well.
        norms=4 * (4 * 32 + 8 + 8) + 32,
        convs=0,
    ),
    Architecture(
        "gpt_oss",
        {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 8,
            "head_dim": 8,
            "num_local_experts": 2,
            # Both, so that rounding chooses no expert.
            "num_experts_per_tok": 2,
        },
        attention=(0, 1, 2, 3),
        windowed=(0, 2),
        recurrent=False,
        lora=4 * GROUPED,
        norms=4 * 2 * 32 + 32,
        convs=0,
    ),
    Architecture(
        "deepseek_v3",
        {
            "num_hidden_layers": 2,
            "num_key_value_heads": 4,
            "q_lora_rank": 12,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 6,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 16,
            "n_routed_experts": 2,
            "n_shared_experts": 1,
            "num_experts_per_tok": 1,
            "n_group": 1,
            "topk_group": 1,
        },
        attention=(0, 1),
        projections=5,
        options={"summary": "mean_std"},
        recurrent=False,
        # Queries and outputs of 4 heads, by way of 12 and 16 numbers; keys come with 4 more, which all heads share.
        lora=2 * ((32 + 12) + (12 + 4 * 12) + (32 + 16 + 4) + (16 + 4 * (8 + 6)) + (4 * 6 + 32)),
        norms=2 * (2 * 32 + 12 + 16) + 32,
        convs=0,
    ),
)
TRANSFORMERS += SPECIAL
ZOO = {architecture.model_type: architecture for architecture in HYBRIDS + TRANSFORMERS}
