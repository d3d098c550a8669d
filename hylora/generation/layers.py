# SPDX-License-Identifier: Apache-2.0
"""Layers of a `SpanCache`: transformers' cache layers, with a `DecodeState` in the place of keys and values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

from hylora.architecture import is_recurrent, windowed_layers
from hylora.attention.new_tokens import NewTokens
from hylora.generation.columns import Columns
from hylora_kernels import SequenceLayout, SpanOptions
from hylora_kernels.decode import DecodeState, span_decode
from hylora_kernels.interface import prompt_tensors

__all__ = ["HybridSpanLayer", "SpanLayer"]


class SpanLayer(DynamicLayer):
    """What span-expanded attention keeps of one layer's tokens; attention itself comes here to attend.

    Args:
        capacity: tokens per row to make room for at first; None means those of the first pass.
        offload: keep keys and values in the host's memory.

    Attributes:
        state: the `DecodeState`, None before the first pass.
    """

    supports_early_init = False

    def __init__(self, capacity: int | None = None, offload: bool = False) -> None:
        DynamicLayer.__init__(self)
        self.capacity, self.offloads = capacity, offload
        self._forget()

    def _forget(self) -> None:
        self.state: DecodeState | None = None
        self.columns = Columns(0)
        self.is_initialized = False

    @torch.inference_mode(False)  # as `attend`, which changes the copy
    def __deepcopy__(self, memo: dict[int, Any]) -> SpanLayer:
        other = memo[id(self)] = type(self).__new__(type(self))
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[NewTokens, ...]:
        """Hand the new tokens on; they are stored when attention comes back with their queries."""
        tokens = NewTokens(self, key_states, value_states)
        return tokens, tokens

    @torch.compiler.disable
    def check(self, query: Tensor, layout: SequenceLayout | Tensor, before: list[int] | None, config: Any) -> None:
        """Refuse new tokens that the cache cannot continue with.

        Args:
            query: `[B, Hq, n, D]`.
            layout: which of the new tokens are real.
            before: tokens that the mask shows in each row before the new ones (without a mask, all); None if unknown.
            config: of the model.

        Raises:
            ValueError: if gradients are asked for, or the batch has other rows, or the mask hides what is held or
                shows more, or leaves a gap that recurrent layers would see, or windows would count.
        """
        if torch.is_grad_enabled() and query.requires_grad:
            raise ValueError("no gradient flows through a SpanCache; use torch.no_grad(), or use_cache=False to train")
        held = self.columns.real(self.columns.length)
        if self.is_initialized and len(held) != len(query):
            raise ValueError(
                f"the batch has {len(query)} rows, and the cache holds {len(held)}; repeat its rows with "
                "batch_repeat_interleave (as beams and returned sequences need), or choose among them with "
                "batch_select_indices"
            )
        if before is not None and before != held:
            raise ValueError(
                f"attention_mask (without one, all are shown) shows {before} tokens per row before the new ones, and "
                f"the cache holds {held}: what was stored cannot be hidden later, nor padding be shown; pass the mask "
                "that the cache was filled with, and ones behind it"
            )
        row = self.columns.gap(SequenceLayout.of(query, layout))
        if row is not None and (is_recurrent(config) or windowed_layers(config)):
            cause = "recurrent layers would see" if is_recurrent(config) else "the model's own windows would count"
            raise ValueError(
                f"padding lies between the tokens of row {row}, and {cause} it; give rows of equal length, or each "
                "row a cache of its own"
            )

    @torch.compiler.disable
    @torch.inference_mode(False)  # what one call makes in that mode, no later call outside of it could change
    @torch.no_grad()
    def attend(
        self,
        query: Tensor,
        tokens: NewTokens,
        layout: SequenceLayout | Tensor,
        options: SpanOptions,
        backend: str,
        *,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Store new tokens, and attend from them to their chunk and the blocks they retrieve.

        Args:
            query: `[B, Hq, n, D]`, after rotary embedding.
            tokens: as `update` gave them.
            layout: which of the `[B, n]` tokens are real.
            options: of the attention.
            backend: as in `span_decode`.
            scale, softcap, sinks: as in `span_attention`.

        Returns:
            `[B, Hq, n, Dv]`.

        Raises:
            ValueError: for other options than at first.
        """
        query, key, value = prompt_tensors(query, tokens.key, tokens.value)
        layout = SequenceLayout.of(query, layout)
        if self.state is None:
            batch, heads, length, head_dim = query.shape
            self.state = DecodeState(
                batch,
                heads,
                key.shape[1],
                head_dim,
                self.capacity or length,
                options,
                scale=scale,
                softcap=softcap,
                value_dim=value.shape[3],
                keep_queries=backend == "reference",
                dtype=query.dtype,
                device=query.device,
                offload=self.offloads,
            )
            self.columns, self.is_initialized = Columns(batch), True
        elif options != self.state.options:
            raise ValueError(
                f"this SpanCache was filled under {self.state.options}, and attention now runs under {options}; "
                "start with a new cache"
            )
        # Without a layout the device is not asked how long the rows are.
        given = None if layout.is_dense else layout
        output = span_decode(query, key, value, self.state, layout=given, sinks=sinks, backend=backend)
        self.columns.append(layout)
        return output

    def get_seq_length(self) -> int:
        """Columns so far, padding included, as transformers counts them."""
        return self.columns.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The new tokens alone: what the mask has to tell is which of them are real."""
        return query_length, self.columns.length

    def crop(self, tokens_to_remove: int) -> None:
        """Take back so many columns, given as a negative number."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop({tokens_to_remove}): pass the number of tokens to take back as a negative one")
        if tokens_to_remove and self.state is not None:
            kept = max(0, self.columns.length + tokens_to_remove)
            self.state.crop(torch.tensor(self.columns.real(kept)))
            self.columns.crop(kept)

    @torch.inference_mode(False)
    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let every row go on from another one. Other numbers of rows than there are change the batch."""
        if self.state is not None:
            self.state.reorder(beam_idx)
            self.columns.take(beam_idx.tolist())

    def reset(self) -> None:
        """Forget all tokens."""
        self._forget()

    def offload(self) -> None:
        """Nothing: keys and values lie with the host from the start, or stay where attention reads them."""

    def prefetch(self) -> None:
        """Nothing, as `offload`."""


class HybridSpanLayer(LinearAttentionAndFullAttentionLayer, SpanLayer):
    """A layer with attention and a recurrence, whose states are transformers' own."""

    def __init__(self, capacity: int | None = None, offload: bool = False, number_of_states: int = 1) -> None:
        SpanLayer.__init__(self, capacity, offload)
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)

    def crop(self, tokens_to_remove: int) -> None:
        """Take back so many columns, given as a negative number."""
        LinearAttentionLayer.crop(self, tokens_to_remove)
        SpanLayer.crop(self, tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let every row go on from another one."""
        LinearAttentionLayer.reorder_cache(self, beam_idx)
        SpanLayer.reorder_cache(self, beam_idx)

    def reset(self) -> None:
        """Forget all tokens."""
        LinearAttentionLayer.reset(self)
        SpanLayer.reset(self)

    def offload(self) -> None:
        """Move the recurrent states to the host."""
        LinearAttentionLayer.offload(self)

    def prefetch(self) -> None:
        """Move them back."""
        LinearAttentionLayer.prefetch(self)
