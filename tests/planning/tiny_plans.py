# SPDX-License-Identifier: Apache-2.0
"""Recipes of tiny models, for plans."""

from __future__ import annotations

import json
from pathlib import Path

import hylora  # noqa: F401  registers attention and models
from hylora.language.recipe import LanguageRecipe

LLAMA = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BAMBA = {
    **LLAMA,
    "model_type": "bamba",
    "attn_layer_indices": [1],
    "mamba_n_heads": 4,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
WINDOWED = {
    **LLAMA,
    "model_type": "qwen2",
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "use_sliding_window": True,
    "sliding_window": 16,
}
BOUNDED = {
    **LLAMA,
    "model_type": "gemma2",
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 16,
    "head_dim": 8,
}
LATENT = {
    **LLAMA,
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "first_k_dense_replace": 2,
}
SMALL_SPAN = {"name": "se_attn", "chunk_size": 64, "block_size": 8, "top_k": 2}


def config_file(folder: Path, config: dict) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return str(path)


def tiny_recipe(folder: Path, config: dict = LLAMA, **sections: dict) -> LanguageRecipe:
    """A recipe of a tiny model in float32; sections are merged into the defaults."""
    defaults = {
        # Chunks and slices of the usual size: a search for the longest context makes many of them.
        "attention": {"name": "se_attn", "chunk_size": 4096},
        "adapter": {"variant": "longlora" if config["model_type"] == "llama" else "hylora", "r": 4, "lora_alpha": 8},
        "training": {"sequence_length": 256, "loss_slice": 4096, "mixed_precision": "float32"},
    }
    tree = {
        "model": {"path": str(Path(config_file(folder, config)).parent)},
        "data": {"sources": [{"path": "-"}]},
        "output": {"path": "-"},
    }
    for name, values in {**defaults, **sections}.items():
        tree[name] = {**defaults.get(name, {}), **values}
    return LanguageRecipe.from_tree(tree)
