# SPDX-License-Identifier: Apache-2.0
"""What a transformers config says about its layers."""

from __future__ import annotations

from typing import Any

__all__ = [
    "attention_layers",
    "continues_by_pieces",
    "full_attention_layers",
    "is_recurrent",
    "shows_positions",
    "windowed_layers",
]

# transformers gives every architecture `layer_types`, mapping older spellings to these names.
_ATTENTION = {"full_attention", "hybrid", "sliding_attention", "chunked_attention"}
_RECURRENT = {"linear_attention", "hybrid", "conv", "mamba"}
# Models without `layer_types` that have no attention at all.
_STATE_SPACE_ONLY = {"mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"}
# Models that build their mask without position_ids.
_POSITIONS_UNSEEN = {
    "afmoe",
    "biogpt",
    "bloom",
    "falcon",
    "gpt_oss",
    "granitemoehybrid",
    "mpt",
    "openai-gpt",
    "opt",
    "xglm",
}
# Models whose recurrent layers start anew when more than one token continues a cache.
_STATE_FORGOTTEN = {"jamba"}


def attention_layers(config: Any) -> list[int]:
    """Indices of the layers that hold attention.

    Args:
        config: a transformers config; of a multimodal one, its text part is read.
    """
    config = config.get_text_config()
    if config.model_type in _STATE_SPACE_ONLY:
        return []
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [index for index, kind in enumerate(types) if kind in _ATTENTION]


def windowed_layers(config: Any) -> list[int]:
    """Indices of the attention layers that have a sliding window of their own, which no plug-in replaces."""
    config = config.get_text_config()
    layers, types = attention_layers(config), getattr(config, "layer_types", None) or []
    if getattr(config, "sliding_window", None) and not {"full_attention", "sliding_attention"} & set(types):
        return layers  # one window for all, as in Mistral
    return [index for index in layers if types and types[index] == "sliding_attention"]


def full_attention_layers(config: Any) -> list[int]:
    """Indices of the layers whose attention has no window of its own: those that a plug-in replaces."""
    windowed = set(windowed_layers(config))
    return [index for index in attention_layers(config) if index not in windowed]


def is_recurrent(config: Any) -> bool:
    """Whether any layer carries a state from token to token (state-space, linear attention or a short convolution).

    Such a layer mixes neighbouring documents of a packed row, whatever the attention does.
    """
    config = config.get_text_config()
    if config.model_type in _STATE_SPACE_ONLY:
        return True
    return any(kind in _RECURRENT for kind in getattr(config, "layer_types", None) or [])


def shows_positions(config: Any) -> bool:
    """Whether `position_ids` reach the mask of a model's own attention, so that it sees restarts in a packed row."""
    return config.get_text_config().model_type not in _POSITIONS_UNSEEN


def continues_by_pieces(config: Any) -> bool:
    """Whether several tokens at once may continue a filled cache; one token may in every model."""
    return config.get_text_config().model_type not in _STATE_FORGOTTEN
