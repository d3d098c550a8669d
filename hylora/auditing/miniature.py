# SPDX-License-Identifier: Apache-2.0
"""A model small enough for a laptop that is built as a large one is: same layers and wiring, fewer and narrower."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

__all__ = ["miniature"]

# What may be divided by one number together: sizes and counts of heads. Sizes of a head stay.
_WIDTHS = re.compile(
    r"(hidden_size|intermediate_size|heads|n_groups|ngroups|block_dim|conv_dim|ff_dim|d_ssm|d_model|n_embd|n_inner|n_head)$"
)
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
_NARROW, _VOCABULARY, _MOST_EXPERTS, _SCAN = 256, 512, 4, 16


def miniature(config: PretrainedConfig) -> tuple[PretrainedConfig, str]:
    """A config of the same architecture with one or two layers of each kind, and narrow ones where that can be done.

    Args:
        config: of the model, which is left as it is.

    Returns:
        The config, and what was changed, in words.
    """
    text = config.get_text_config()
    kinds = _kinds(text)
    chosen = [index for index, kind in enumerate(kinds) if kinds[:index].count(kind) < 2]
    # Configs that place layers by a period, and not one by one, keep their beginning.
    last = max(kinds.index(kind) for kind in set(kinds)) + 1
    problem = None
    for layers in (chosen, range(last)):
        for factor in (_factor(text), 1):
            try:
                small = _with(text, list(layers), factor)
                if _kinds(small) == [kinds[index] for index in layers]:
                    _try_out(small)
                    width = f"divided by {factor}" if factor > 1 else "as they are"
                    changes = f"random weights, {len(layers)} of {len(kinds)} layers, widths {width}"
                    return small, f"{changes}, {small.vocab_size} of {text.vocab_size} tokens"
            except Exception as error:  # whatever a modelling file does with sizes that do not fit together
                problem = error
    raise ValueError(
        f"model_type={text.model_type!r} cannot be made small ({type(problem).__name__}: {problem}); audit it with "
        "its own weights"
    ) from problem


def _kinds(config: PretrainedConfig) -> list[Any]:
    """What each layer is."""
    count = config.num_hidden_layers
    mixers = getattr(config, "layer_types", None) or ["full_attention"] * count
    experts = getattr(config, "mlp_layer_types", None) or [""] * count
    return list(zip(mixers, experts, strict=False))


def _factor(config: PretrainedConfig) -> int:
    """The largest power of two that divides all widths and leaves the model wide enough."""
    widths = [value for name, value in config.to_dict().items() if _is_width(name, value)]
    common = math.gcd(*widths)
    common &= -common
    while common > 1 and config.hidden_size // common < _NARROW:
        common //= 2
    return common


def _is_width(name: str, value: Any) -> bool:
    return bool(_WIDTHS.search(name)) and isinstance(value, int) and value > 1


def _with(config: PretrainedConfig, layers: list[int], factor: int) -> PretrainedConfig:
    count = config.num_hidden_layers
    values = copy.deepcopy(config.to_dict())
    for name, value in values.items():
        if _is_width(name, value):
            values[name] = value // factor
        elif name in _EXPERTS and isinstance(value, int):
            values[name] = min(value, max(_MOST_EXPERTS, getattr(config, "num_experts_per_tok", 1)))
        elif name in _TOKENS:
            values[name] = None
        elif name in ("chunk_size", "mamba_chunk_size") and isinstance(value, int):
            values[name] = min(value, _SCAN)
        elif isinstance(value, (list, tuple)) and len(value) == count:
            values[name] = [value[index] for index in layers]
        elif isinstance(value, (list, tuple)) and name.endswith(("layer_indices", "layer_ids", "layer_idx")):
            values[name] = [layers.index(index) for index in value if index in layers]
    values |= {"num_hidden_layers": len(layers), "vocab_size": min(config.vocab_size, _VOCABULARY)}
    # Layers must matter beside rounding: a random model this small is close to the identity.
    if "initializer_range" in values:
        values["initializer_range"] = max(
            values["initializer_range"] or 0.0, 0.5 * (config.hidden_size // factor) ** -0.5
        )
    return type(config).from_dict(values)


def _try_out(config: PretrainedConfig) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
        model(torch.ones(1, 20, dtype=torch.long), use_cache=False)
