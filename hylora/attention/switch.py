# SPDX-License-Identifier: Apache-2.0
"""Choose the attention of a loaded model."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from hylora.architecture import attention_layers
from hylora.attention.config import PRESET_NAMES, SpanConfig, expand_preset
from hylora.attention.names import PLUG_INS, check_options, resolve_name
from hylora.attention.windows import refuse_windows_alone

__all__ = ["check_attention", "set_attention"]


def check_attention(config: Any, name: str) -> None:
    """Refuse a model that an attention of this package cannot serve, before any weight is loaded.

    Args:
        config: the model's transformers config.
        name: the attention asked for; names that are not this package's are accepted.

    Raises:
        ValueError: if the model has no attention layers without a sliding window of their own, does not call
            transformers' attention interface, or its attention has features that would be ignored.
    """
    if resolve_name(name) not in PLUG_INS:
        return
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is not None and not model_class._can_set_attn_implementation():
        raise ValueError(
            f"{model_class.__name__} computes attention itself, past transformers' attention interface, so {name!r} "
            "would not be used; choose a model whose attention can be set"
        )
    text = config.get_text_config()
    if not attention_layers(text):
        raise ValueError(
            f"model_type={text.model_type!r} has no attention layers, so there is nothing for {name!r} to replace; "
            "choose a hybrid or a Transformer"
        )
    refuse_windows_alone(name, text)
    if getattr(text, "attn_logit_softcapping", None):
        raise ValueError(
            f"attn_logit_softcapping={text.attn_logit_softcapping} is not computed by {name!r}; use 'eager'"
        )


def set_attention(model: nn.Module, name: str, **options: Any) -> None:
    """Switch the attention of a loaded model in place; the weights stay as they are.

    Args:
        model: a transformers model, or a PEFT model around one.
        name: `"se_attn"`, `"se_attn_recall"` (the same with the preset "recall"), `"sw_attn"`, `"s2_attn"`, `"full"`,
            or another name that transformers knows.
        **options: fields of `SpanConfig`, or `preset`. They replace the options kept on the model's config as a whole:
            what is not given gets its default. Without any option, those on the config stay.

    Raises:
        ValueError: if the name or an option is unknown, the attention takes no options, or the model cannot take it.
        TypeError: if the model is not a transformers model.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, PreTrainedModel):
        raise TypeError(f"set_attention needs a transformers model, not {type(base).__name__}")
    check_attention(base.config, name)
    check_options(name, options)
    options, text = expand_preset(options, name), base.config.get_text_config()
    # Where the attention's name stood for options, they would be forgotten with it.
    keeps = resolve_name(name) in PLUG_INS or text._attn_implementation in PRESET_NAMES
    span = SpanConfig.from_dict(options) if options or not keeps else SpanConfig.of(text)
    base.set_attn_implementation(resolve_name(name))
    if keeps:
        span.keep_on(text)
