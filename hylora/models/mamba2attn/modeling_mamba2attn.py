# SPDX-License-Identifier: Apache-2.0
"""The mamba2attn model, on transformers' building blocks.

Every layer is one mixer between a norm and the residual stream: Mamba-2, or attention whose queries, keys and values
pass a short convolution. Mixer, RoPE and eager attention are Bamba's, whose Mamba-2 is the same function; the norm,
the attention and the order of things are this model's own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_recurrent_attention_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bamba.modeling_bamba import (
    BambaMixer,
    BambaRotaryEmbedding,
    apply_rotary_pos_emb,
    causal_conv1d_fn,
    eager_attention_forward,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hylora.models.mamba2attn.configuration_mamba2attn import Mamba2AttnConfig

__all__ = ["Mamba2AttnForCausalLM", "Mamba2AttnModel", "Mamba2AttnPreTrainedModel"]


class Mamba2AttnRMSNorm(nn.Module):
    """RMS norm that reads the residual stream as it is, at least in float32, and returns the dtype of the weights."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, residual: Tensor) -> Tensor:
        residual = residual.to(torch.promote_types(residual.dtype, torch.float32))
        normed = residual * torch.rsqrt(residual.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * normed).to(self.weight.dtype)


class Mamba2AttnAttention(nn.Module):
    """Causal attention with a depthwise convolution over queries, keys and values, before RoPE, without activation."""

    def __init__(self, config: Mamba2AttnConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.kernel_size = config.attention_d_conv
        self.widths = [
            heads * self.head_dim
            for heads in (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        ]
        query, key, value = self.widths
        self.q_proj = nn.Linear(config.hidden_size, query, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, value, bias=False)
        self.o_proj = nn.Linear(query, config.hidden_size, bias=False)
        channels = sum(self.widths)
        self.conv1d = nn.Conv1d(
            channels, channels, self.kernel_size, groups=channels, padding=self.kernel_size - 1, bias=True
        )

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Any = None,
        padding_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, length, _ = hidden_states.shape
        if padding_mask is not None:
            # otherwise the convolution would carry padding into the first real tokens
            hidden_states = (hidden_states * padding_mask[:, :, None]).to(hidden_states.dtype)
        states = torch.cat([self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)], -1)
        states = self._convolve(states.transpose(1, 2), past_key_values, kwargs.get("seq_idx")).transpose(1, 2)
        query, key, value = (
            part.view(batch, length, -1, self.head_dim).transpose(1, 2) for part in states.split(self.widths, dim=-1)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.o_proj(output.reshape(batch, length, -1)), weights

    def _convolve(self, states: Tensor, cache: Cache | None, seq_idx: Tensor | None) -> Tensor:
        """Convolve [B, C, L]. The cache keeps the last inputs, so that the next call sees what came before it."""
        length = states.shape[-1]
        if cache is not None:
            states = cache.update_conv_state(states, self.layer_idx, conv_kernel_size=self.kernel_size)
        # Weights and not the module, as mixers do: kernels take them, and they may be wider than the activations.
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        return causal_conv1d_fn(states, weight, bias, activation=None, seq_idx=seq_idx)[..., -length:]


class Mamba2AttnDecoderLayer(GradientCheckpointingLayer):
    """One mixer on the normed residual stream."""

    def __init__(self, config: Mamba2AttnConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = Mamba2AttnRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.has_attention = config.layer_types[layer_idx] == "hybrid"
        if self.has_attention:
            self.self_attn = Mamba2AttnAttention(config, layer_idx)
        else:
            self.mamba = BambaMixer(config, layer_idx)

    def forward(
        self,
        residual: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Any = None,
        padding_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        hidden_states = self.input_layernorm(residual)
        if self.has_attention:
            hidden_states, _ = self.self_attn(
                hidden_states,
                position_embeddings,
                attention_mask=attention_mask,
                padding_mask=padding_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                **kwargs,
            )
        else:
            hidden_states = self.mamba(
                hidden_states, cache_params=past_key_values, attention_mask=padding_mask, **kwargs
            )
        return residual + hidden_states


class Mamba2AttnPreTrainedModel(PreTrainedModel):
    """What all mamba2attn models share: how they are initialised, loaded and run."""

    config_class = Mamba2AttnConfig
    config: Mamba2AttnConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Mamba2AttnDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    # decays and time steps are exponentiated: half precision is too coarse for them
    _keep_in_fp32_modules_strict = ["A_log", "dt_bias", "D"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _is_stateful = True
    _can_record_outputs = {"hidden_states": Mamba2AttnDecoderLayer, "attentions": Mamba2AttnAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            # taps as small as other weights would all but erase what passes through
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, BambaMixer):
            # as the original: decays between 1 and 16, time steps between 0.001 and 0.1, log-uniform
            decay = torch.empty_like(module.A_log, dtype=torch.float32).uniform_(1, 16)
            step = torch.empty_like(module.dt_bias, dtype=torch.float32).uniform_(math.log(1e-3), math.log(0.1)).exp()
            init.copy_(module.A_log, decay.log())
            init.copy_(module.dt_bias, step.expm1().log())
            init.ones_(module.D)


class Mamba2AttnModel(Mamba2AttnPreTrainedModel):
    """The decoder: embeddings, layers and the final norm."""

    def __init__(self, config: Mamba2AttnConfig):
        super().__init__(config)
        # No padding_idx: padding is the end-of-text token, whose embedding must learn.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Mamba2AttnDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.final_layernorm = Mamba2AttnRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = BambaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the decoder.

        Args:
            input_ids: tokens [B, L]; or give `inputs_embeds`.
            attention_mask: [B, past + L], 1 for real tokens; or masks by kind, as `generate` prepares them.
            position_ids: [B, L]; by default they count on from the cache.
            past_key_values: a `DynamicCache(config=model.config)` to continue.
            inputs_embeds: [B, L, H] instead of tokens.
            use_cache: whether to return a cache.

        Returns:
            `last_hidden_state` [B, L, H] after the final norm, and the cache.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(past, past + inputs_embeds.shape[1], device=inputs_embeds.device)[None]

        masks = attention_mask
        if not isinstance(masks, dict):
            arguments = {
                "config": self.config,
                "inputs_embeds": inputs_embeds,
                "attention_mask": attention_mask,
                "past_key_values": past_key_values,
                "position_ids": position_ids,
            }
            masks = {
                "full_attention": create_causal_mask(**arguments),
                "linear_attention": create_recurrent_attention_mask(**arguments),
            }
        position_embeddings = self.rotary_emb(inputs_embeds, position_ids=position_ids)
        residual = inputs_embeds
        if self.config.residual_in_fp32:
            residual = residual.to(torch.promote_types(residual.dtype, torch.float32))
        for layer in self.layers:
            residual = layer(
                residual,
                position_embeddings,
                attention_mask=masks["full_attention"],
                padding_mask=masks["linear_attention"],
                position_ids=position_ids,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.final_layernorm(residual), past_key_values=past_key_values
        )


class Mamba2AttnForCausalLM(Mamba2AttnPreTrainedModel, GenerationMixin):
    """The language model: the decoder and a head, which is the embedding where the config ties them."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Mamba2AttnConfig):
        super().__init__(config)
        self.model = Mamba2AttnModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the language model: the decoder, with all that it takes, and the head.

        Args:
            labels: tokens [B, L] to predict, shifted inside; -100 is ignored.
            logits_to_keep: the last so many positions get logits (0: all), or these positions.

        Returns:
            `logits` [B, L, V], the cache, and the mean `loss` where there are labels.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args):
        # transformers takes a class named "...Mamba..." for one without attention, whose cache it calls cache_params
        if "past_key_values" in model_kwargs:
            model_kwargs["cache_params"] = model_kwargs.pop("past_key_values")
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        if "cache_params" in model_kwargs:
            model_kwargs["past_key_values"] = model_kwargs.pop("cache_params")


# `AutoModelForCausalLM.from_pretrained` loads what `hylora convert` wrote.
AutoModel.register(Mamba2AttnConfig, Mamba2AttnModel)
AutoModelForCausalLM.register(Mamba2AttnConfig, Mamba2AttnForCausalLM)
