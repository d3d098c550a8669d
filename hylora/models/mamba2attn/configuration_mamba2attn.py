# SPDX-License-Identifier: Apache-2.0
"""The shape of a mamba2attn model; the defaults are those of `state-spaces/mamba2attn-2.7b`."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

__all__ = ["Mamba2AttnConfig"]

# Mamba-2 paper, section 9.2.3: six attention layers among 64.
_ATTENTION_LAYERS_2_7B = (9, 18, 27, 36, 45, 56)
_LAYER_TYPES = ("linear_attention", "hybrid")


@strict
class Mamba2AttnConfig(PreTrainedConfig):
    """Configuration of a mamba2attn model: layers of one mixer each, Mamba-2 or attention with a short convolution.

    The fields `mamba_*` and `time_step_limit` are named as in `BambaConfig`, whose mixer is used.

    Args:
        vocab_size: rows of the embedding, padding included.
        hidden_size: width of the residual stream.
        num_hidden_layers: number of layers.
        layer_types: for each layer `"linear_attention"` (Mamba-2) or `"hybrid"` (attention, whose cache holds keys and
            values as well as the state of its convolution). None is the 2.7B model's placement, for 64 layers.
        num_attention_heads: query heads of an attention layer.
        num_key_value_heads: key and value heads; None for as many as query heads.
        head_dim: dimensions of an attention head.
        attention_d_conv: taps of the convolution over queries, keys and values.
        rope_parameters: as transformers has them. `rope_theta` defaults to 10000 and `partial_rotary_factor`, the
            share of a head's dimensions that is rotated, to 0.5.
        max_position_embeddings: context length of the pre-training.
        mamba_n_heads: heads of a Mamba-2 mixer.
        mamba_d_head: dimensions of such a head; `mamba_n_heads * mamba_d_head` must be `mamba_expand * hidden_size`.
        mamba_d_state: size of the state per dimension.
        mamba_d_conv: taps of the mixer's convolution.
        mamba_expand: inner width of the mixer over `hidden_size`.
        mamba_n_groups: groups that share B and C; only 1 is supported.
        mamba_chunk_size: tokens in a chunk of the scan; it changes speed, not results.
        mamba_conv_bias: whether the mixer's convolution has a bias.
        mamba_proj_bias: whether the mixer's projections have one.
        time_step_limit: bounds of the time step.
        hidden_act: activation after the mixer's convolution.
        rms_norm_eps: epsilon of all norms.
        residual_in_fp32: whether the residual stream is at least float32, whatever the dtype of the weights.
        tie_word_embeddings: whether the head is the embedding.
        initializer_range: standard deviation of fresh weights.
        use_cache: whether to return a cache by default.

    Raises:
        ValueError: if fields contradict each other or ask for something that is not implemented.
    """

    model_type = "mamba2attn"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 50288
    hidden_size: int = 2560
    num_hidden_layers: int = 64
    layer_types: list[str] | None = None
    num_attention_heads: int = 30
    num_key_value_heads: int | None = None
    head_dim: int = 128
    attention_d_conv: int = 4
    rope_parameters: dict | None = None
    max_position_embeddings: int = 2048
    mamba_n_heads: int = 80
    mamba_d_head: int = 64
    mamba_d_state: int = 128
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_n_groups: int = 1
    mamba_chunk_size: int = 256
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    time_step_limit: list[float] | tuple[float, float] = (0.0, float("inf"))
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    residual_in_fp32: bool = True
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.layer_types is None:
            self.layer_types = _default_layer_types(self.num_hidden_layers)
        # JSON has no tuples, and mixers compare with one
        self.time_step_limit = tuple(self.time_step_limit)
        kwargs.setdefault("partial_rotary_factor", 0.5)
        super().__post_init__(**kwargs)
        self._check()

    @property
    def rotary_dim(self) -> int:
        """Dimensions of an attention head that are rotated."""
        return int(self.head_dim * self.rope_parameters["partial_rotary_factor"])

    def _check(self) -> None:
        """Raise a plain ValueError, which transformers' own validators do not, for a shape that can't be built."""
        unknown = sorted(set(self.layer_types) - set(_LAYER_TYPES))
        if unknown:
            raise ValueError(f"layer_types holds {unknown[0]!r}; each must be one of {', '.join(_LAYER_TYPES)}")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types names {len(self.layer_types)} layers, but num_hidden_layers={self.num_hidden_layers}"
            )
        if "hybrid" not in self.layer_types:
            raise ValueError("layer_types holds no 'hybrid' layer; without attention use transformers' Mamba2 instead")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.mamba_n_heads * self.mamba_d_head != self.mamba_expand * self.hidden_size:
            raise ValueError(
                f"mamba_n_heads * mamba_d_head = {self.mamba_n_heads} * {self.mamba_d_head} must equal "
                f"mamba_expand * hidden_size = {self.mamba_expand} * {self.hidden_size}"
            )
        if self.mamba_n_groups != 1:
            # the mixer's norm is taken over groups by newer versions of transformers alone
            raise ValueError(f"mamba_n_groups={self.mamba_n_groups} is not supported; only 1 is")
        for name in ("attention_d_conv", "mamba_d_conv"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 2: every mixer has a convolution")
        if self.rotary_dim < 2 or self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise ValueError(
                f"partial_rotary_factor={self.rope_parameters['partial_rotary_factor']} rotates {self.rotary_dim} of "
                f"head_dim={self.head_dim} dimensions; it must be an even number from 2 to head_dim"
            )


def _default_layer_types(layers: int) -> list[str]:
    """The 2.7B model's placement of attention, which says nothing about other depths."""
    if layers != 64:
        raise ValueError(
            f"num_hidden_layers={layers} needs layer_types, a list that says for each layer which of "
            f"{', '.join(_LAYER_TYPES)} it is"
        )
    return ["hybrid" if layer in _ATTENTION_LAYERS_2_7B else "linear_attention" for layer in range(layers)]


AutoConfig.register(Mamba2AttnConfig.model_type, Mamba2AttnConfig)
