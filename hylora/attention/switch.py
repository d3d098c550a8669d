# SPDX-License-Identifier: Apache-2.0
"""Choose the attention of a loaded model."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from hylora.architecture import attention_layers
from hylora.attention.config import CONFIG_ATTRIBUTE, PRESET_NAMES, SpanConfig, expand_preset
from hylora.attention.names import PLUG_INS, check_options, resolve_name
from hylora.attention.windows import refuse_windows_alone
from hylora_kernels.inputs import check_comparable

__all__ = ["check_attention", "set_attention"]


def check_attention(config: Any, name: str, span: SpanConfig | None = None) -> None:
    """Refuse a model that an attention of this package cannot serve, before any weight is loaded.

    Args:
        config: the model's transformers config.
        name: the attention asked for; names that are not this package's are accepted.
        span: its options; None means those kept on the config.

    Raises:
        ValueError: if the model has no attention layers without a sliding window of their own, does not call
            transformers' attention interface, or has values that the options' summary cannot compare with queries.
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
    if resolve_name(name) == "se_attn":
        if span is None:
            span = SpanConfig.from_dict(expand_preset(getattr(text, CONFIG_ATTRIBUTE, None) or {}, name))
        _check_summary(text, name, span)


def _check_summary(config: Any, name: str, span: SpanConfig) -> None:
    """Refuse to compare queries with values where multi-head latent attention gives them another size."""
    value_dim = getattr(config, "v_head_dim", None)
    if value_dim is None or getattr(config, "kv_lora_rank", None) is None:
        return
    head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
    try:
        check_comparable(head_dim, value_dim, span)
    except ValueError as error:
        raise ValueError(f"model_type={config.model_type!r}: {error}, or 'se_attn_recall' for {name!r}") from error


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
    check_options(name, options)
    options, text = expand_preset(options, name), base.config.get_text_config()
    # Where the attention's name stood for options, they would be forgotten with it.
    keeps = resolve_name(name) in PLUG_INS or text._attn_implementation in PRESET_NAMES
    span = SpanConfig.from_dict(options) if options or not keeps else SpanConfig.of(text)
    check_attention(base.config, name, span)
    base.set_attn_implementation(resolve_name(name, base.config))
    if keeps:
        span.keep_on(text)
