# SPDX-License-Identifier: Apache-2.0
"""A cache under which generation goes on with span-expanded attention, in place of full attention over all tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
)

from hylora.architecture import continues_by_pieces, windowed_layers
from hylora.generation.layers import HybridSpanLayer, SpanLayer
from hylora_kernels.decode import DecodeState
from hylora_kernels.options import check_integer

__all__ = ["SpanCache", "bytes_held"]


class SpanCache(Cache):
    """Passed as `past_key_values` to a model whose attention is `se_attn` or `se_attn_recall`, or to its `generate`.

    Every token, of a prompt or new, then attends to its chunk and the blocks that it retrieves. Recurrent layers keep
    their states, and layers with a sliding window of their own its keys and values, as in any cache of transformers.

    Args:
        config: of the model.
        capacity: tokens per row to make room for at first. When room runs out it grows, which copies what is held.
        offload: keep keys and values in the host's memory, and bring what is read to the device; not those of windows.

    Raises:
        ValueError: if a layer of the model attends in chunks or has an index of its own, or keys are computed from
            what its cache holds (multi-head latent attention), or none has full attention, or there is to be room for
            no token.
    """

    def __init__(self, config: PreTrainedConfig, *, capacity: int | None = None, offload: bool = False) -> None:
        if capacity is not None:
            check_integer("capacity", capacity, minimum=1)

        text = config.get_text_config(decoder=True)
        if getattr(text, "kv_lora_rank", None):
            raise ValueError(
                f"model_type={config.model_type!r} keeps latent vectors in its cache (kv_lora_rank="
                f"{text.kv_lora_rank}) and computes keys and values from all of them at every step, where a SpanCache "
                "reads a few; pass transformers' DynamicCache (hylora generate: --full-cache)"
            )
        windowed = windowed_layers(text)

        def span(index, layer):
            kind = type(layer)
            if kind is DynamicLayer:
                return SpanLayer(capacity, offload)
            if kind is LinearAttentionAndFullAttentionLayer:
                return HybridSpanLayer(capacity, offload, layer.number_of_states)
            if isinstance(layer, CacheLayerMixin) and not (kind is DynamicSlidingWindowLayer and index in windowed):
                raise ValueError(
                    f"model_type={config.model_type!r} has layers that need a {kind.__name__}, for which a SpanCache "
                    "cannot stand; pass transformers' DynamicCache (hylora generate: --full-cache)"
                )
            return layer

        layers = [span(index, layer) for index, layer in enumerate(DynamicCache(config=config).layers)]
        if not any(isinstance(layer, SpanLayer) for layer in layers):
            raise ValueError(f"model_type={config.model_type!r} has no full attention, and needs no SpanCache")
        super().__init__(layers=layers)
        self._by_pieces = continues_by_pieces(config)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """What the mask is made from: full attention is told of no keys but those of the new tokens.

        Raises:
            ValueError: if several tokens continue the cache of a model whose recurrent layers then start anew, or if
                not all layers hold the same tokens.
        """
        holding = () if torch.compiler.is_compiling() else self._attention_layers()
        lengths = [int(layer.get_seq_length()) for layer in holding]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"some layers of this SpanCache hold {max(lengths)} tokens and others {min(lengths)}, since a forward "
                "pass was broken off; start with a new cache"
            )
        if query_length > 1 and not self._by_pieces and self.get_seq_length():
            raise ValueError(
                f"{query_length} tokens continue a cache that holds {self.get_seq_length()}, and the recurrent layers "
                "of this model forget their state when it is more than one; pass the whole prompt at once (without "
                "prefill_chunk_size), then one token at a time"
            )
        return super().get_mask_sizes(query_length, layer_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens.

        Args:
            tokens_to_remove: how many columns, as a negative number.

        Raises:
            ValueError: if recurrent layers hold a state, or layers with windows of their own have let go of tokens;
                neither can be taken back.
        """
        if tokens_to_remove and not self.is_croppable:
            raise ValueError(
                f"crop({tokens_to_remove}): recurrent layers do not tell what their state was before those tokens; "
                "keep a copy (copy.deepcopy) of the cache to go back to"
            )
        for layer in self._windows():
            kept = layer.get_seq_length() + tokens_to_remove
            if layer.is_initialized and layer.keys.shape[-2] + tokens_to_remove < min(kept, layer.sliding_window - 1):
                raise ValueError(
                    f"crop({tokens_to_remove}): windows of {layer.sliding_window} tokens have let go of earlier ones; "
                    "call cache.activate_past_recording() before the tokens that may be taken back, or keep a copy "
                    "(copy.deepcopy) of the cache to go back to"
                )
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        for layer in self._windows():
            layer.is_initialized = False  # transformers 5.17 would go on behind zeros

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone.

        Args:
            indices: integers, one for each row of the new batch.
        """
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row.

        Args:
            repeats: how many times.
        """
        state = next(self._span_layers()).state
        if state is not None:
            # Recurrent layers of transformers can only be reordered, which takes any choice of rows.
            self.reorder_cache(torch.arange(len(state.lengths)).repeat_interleave(repeats))

    def _attention_layers(self) -> Iterator[CacheLayerMixin]:
        return (layer for layer in self.layers if isinstance(layer, CacheLayerMixin))

    def _windows(self) -> Iterator[DynamicSlidingWindowLayer]:
        return (layer for layer in self.layers if isinstance(layer, DynamicSlidingWindowLayer))

    def _span_layers(self) -> Iterator[SpanLayer]:
        return (layer for layer in self.layers if isinstance(layer, SpanLayer))


def bytes_held(cache: Cache) -> int:
    """The memory that a cache's layers take, room that is not used yet included.

    Args:
        cache: a `SpanCache`, or one of transformers'.
    """
    held = 0
    for kept in chain.from_iterable(vars(layer).values() for layer in cache.layers):
        if isinstance(kept, DecodeState):
            held += sum(kept.bytes_held())
        else:
            parts = kept.values() if isinstance(kept, dict) else (kept,)
            held += sum(part.nbytes for part in parts if isinstance(part, Tensor))
    return held
