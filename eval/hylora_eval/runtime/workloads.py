# SPDX-License-Identifier: Apache-2.0
"""What is timed: passes of a whole model, or of its attention alone, under one attention or another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import hylora
from hylora.architecture import windowed_layers
from hylora.attention import CachedKeys, Prefill, SpanConfig, expand_preset, resolve_name
from hylora.attention.names import PLUG_INS
from hylora.generation import SpanLayer
from hylora.language.head import decoder_and_head
from hylora.language.task import CausalLoss
from hylora_kernels import SequenceLayout

__all__ = ["WORKS", "AttentionWorkload", "ModelWorkload", "options_under"]

WORKS = ("forward", "forward+backward", "decode")

# Positions whose logits exist at one time.
_SLICE = 1024


class ModelWorkload:
    """Passes of a whole causal language model on random tokens.

    "forward" is the loss of a sequence without gradients, "forward+backward" with those of all parameters that require
    them (in training mode, so chunk sizes are drawn where there are several), both with the logits in slices.
    "decode" is `decode_tokens` greedy tokens, one at a time, after a prompt that fills the cache outside the time: a
    `SpanCache` where the attention takes one.

    Args:
        model: a transformers causal language model, or a PEFT model around one. Its attention and mode are changed.
        span: options of the plug-in attentions.
        batch_size: sequences at a time.
        decode_tokens: in one run of "decode".
    """

    def __init__(self, model: nn.Module, span: SpanConfig, batch_size: int = 1, decode_tokens: int = 16) -> None:
        self.model = model
        self.span = span
        self.batch_size = batch_size
        self.decode_tokens = decode_tokens

    def prepare(self, work: str, attention: str, length: int) -> Callable[[], object]:
        """Make one run ready.

        Args:
            work: one of `WORKS`.
            attention: as `hylora.set_attention` takes it.
            length: tokens of the sequence, or of the prompt.

        Returns:
            What is to be timed.
        """
        options = options_under(attention, self.span).to_dict() if resolve_name(attention) in PLUG_INS else {}
        hylora.set_attention(self.model, attention, **options)
        self.model.train(work == "forward+backward")
        weight = self.model.get_input_embeddings().weight
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(weight.shape[0], (self.batch_size, length), generator=generator).to(weight.device)
        if work == "decode":
            spans = resolve_name(attention) == "se_attn"
            # Room for several runs, since growing is none of a step's work.
            room = length + 16 * self.decode_tokens
            return self._decode(ids, hylora.SpanCache(self.model.config, capacity=room) if spans else None)
        loss = CausalLoss(self.model, _SLICE)
        if work == "forward":
            return torch.no_grad()(lambda: loss(ids, ids))

        def step() -> None:
            try:
                total, count = loss(ids, ids)
                (total / count).backward()
            finally:
                # Also after running out of memory: the next one must find what this one found.
                self.model.zero_grad(set_to_none=True)

        return step

    def _decode(self, ids: Tensor, cache: Any) -> Callable[[], Tensor]:
        """Fill the cache with the prompt, and give the run that goes on from there."""
        parts = decoder_and_head(self.model)

        @torch.no_grad()
        def read(ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
            seen = 0 if cache is None else cache.get_seq_length()
            # Bamba by itself counts from 0 in every call.
            positions = torch.arange(seen, seen + ids.shape[1], device=ids.device)[None]
            outputs = parts.decoder(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
            return parts.logits(outputs.last_hidden_state[:, -1:]).argmax(-1), outputs.past_key_values

        token, cache = read(ids, cache)

        def decode() -> Tensor:
            found, latest = [token], cache
            for _ in range(self.decode_tokens):
                following, latest = read(found[-1], latest)
                found.append(following)
            return torch.cat(found, dim=1)

        return decode


class AttentionWorkload:
    """Passes of the attention function alone, on random queries, keys and values of a model's shapes.

    Projections, positions and everything else that the attentions share are left out, as are a bound of the scores and
    sinks.

    Args:
        model: of the shapes; its weights are not used and may have no storage (device "meta").
        span: options of the plug-in attentions.
        dtype: of queries, keys and values.
        device: where they are.
        batch_size: sequences at a time.

    Raises:
        ValueError: if the model has no attention module in transformers' form.
    """

    def __init__(
        self, model: nn.Module, span: SpanConfig, dtype: torch.dtype, device: torch.device, batch_size: int = 1
    ) -> None:
        self.module = _attention_module(model)
        self.span = span
        heads = self.module.config.num_attention_heads
        self.heads = {"query": heads, "key": heads // self.module.num_key_value_groups}
        self.batch_size = batch_size
        self.decode_tokens = 1
        self._kind = {"dtype": dtype, "device": device}

    def prepare(self, work: str, attention: str, length: int) -> Callable[[], object]:
        """Make one run ready; "decode" is one query after `length` keys (arguments as for `ModelWorkload.prepare`).

        Raises:
            ValueError: if the attention takes its mask in a form that is not made here.
        """
        name = resolve_name(attention)
        if name in ("eager", "flex_attention"):
            raise ValueError(f"attention {attention!r} cannot be timed alone, only within the model (part 'model')")
        queries = 1 if work == "decode" else length
        shapes = ((self.heads["query"], queries), (self.heads["key"], length), (self.heads["key"], length))
        query, key, value = (
            torch.randn(self.batch_size, heads, tokens, self.module.head_dim, **self._kind) for heads, tokens in shapes
        )
        mask = None
        if name in PLUG_INS:
            options_under(attention, self.span).keep_on(self.module.config)
            dense = SequenceLayout.dense(self.batch_size, length)
            mask = CachedKeys(None) if work == "decode" else Prefill(dense, draw=None)

        def attend() -> Tensor:
            return ALL_ATTENTION_FUNCTIONS[name](self.module, query, key, value, mask, scaling=self.module.scaling)[0]

        if work == "decode" and name == "se_attn":
            layer, step = SpanLayer(capacity=length + 64), query
            query = torch.randn(self.batch_size, self.heads["query"], length, self.module.head_dim, **self._kind)
            mask, new = Prefill(dense, draw=None), (key[:, :, -1:], value[:, :, -1:])
            key, value = layer.update(key, value)
            torch.no_grad()(attend)()
            query, mask = step, Prefill(SequenceLayout.dense(self.batch_size, 1), draw=None)
            key, value = layer.update(*new)

        if work != "forward+backward":
            return torch.no_grad()(attend)
        leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
        gradient = torch.randn(self.batch_size, queries, self.heads["query"], self.module.head_dim, **self._kind)
        return lambda: torch.autograd.grad(attend(), leaves, gradient)


def options_under(attention: str, span: SpanConfig) -> SpanConfig:
    """These options, as far as the attention's name does not stand for others."""
    return SpanConfig.from_dict({**span.to_dict(), **expand_preset({}, attention)})


def _attention_module(model: nn.Module) -> nn.Module:
    """The first attention module in transformers' form without a sliding window of its own."""
    for module in model.modules():
        known = all(hasattr(module, name) for name in ("is_causal", "num_key_value_groups", "head_dim", "scaling"))
        if known and getattr(module, "layer_idx", None) not in windowed_layers(module.config):
            return module
    raise ValueError(
        f"{type(model).__name__} has no attention module in transformers' form; time the whole model (part 'model')"
    )
