# SPDX-License-Identifier: Apache-2.0
"""From transformers' mask description to the layout of sequences that the attention functions work on.

transformers asks a mask function once per forward pass and hands whatever it returns to every attention layer. Ours
returns a `Prefill` when the queries are a whole input or continue a `SpanCache`, which knows what came before, and a
`CachedKeys` when they continue another filled cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import causal_mask_function, sdpa_mask

from hylora.attention.boundaries import read_table
from hylora_kernels import SequenceLayout
from hylora_kernels.visibility import find_boundaries, read_layout

__all__ = ["CachedKeys", "Prefill", "span_mask"]


class _MaskObject:
    """What stands where transformers expects a mask, of which `generate` may know only this much.

    With a static cache it makes the masks ahead of the model, takes those of two dimensions for padding, and wants the
    others contiguous.
    """

    ndim = 4

    def contiguous(self) -> _MaskObject:
        return self


@dataclass(eq=False)
class Prefill(_MaskObject):
    """One forward pass over whole sequences, or over what continues those of a `SpanCache`.

    Attributes:
        layout: which new tokens form which sequence; inside a compiled graph, the table of their sequences.
        draw: key of this pass's random choices (a tensor inside a graph), None where gradients are off. It travels
            with the layout, so that a checkpointed layer that is run again makes the same choices.
        positions_shown: whether the mask was made from the positions, so that they cannot contradict it.
        packing_settled: whether whatever else marks boundaries was found to agree with the layout.
        before: real tokens in each row before these, None where there are none or a graph cannot say.
        window: of the layers that get this mask, if they have one of their own: tokens that a query sees at most.
    """

    layout: SequenceLayout | torch.Tensor
    draw: int | torch.Tensor | None
    positions_shown: bool = False
    packing_settled: bool = False
    before: list[int] | None = None
    window: int | None = None
    _ordinals: dict[nn.Module, int] = field(default_factory=dict)

    def ordinal(self, module: nn.Module) -> int:
        """The number of an attention module in the order of first use in this pass: 0, 1, ...

        Modules do not know it themselves: where models share attention between layers, `layer_idx` is -1 or None.
        """
        return self._ordinals.setdefault(module, len(self._ordinals))


@dataclass(eq=False)
class CachedKeys(_MaskObject):
    """A forward pass whose queries continue a cache: attention under `mask` ([B, 1, Lq, Lk] bool, None: all seen)."""

    mask: torch.Tensor | None


def span_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: torch.Tensor | Prefill | CachedKeys | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    config: Any = None,
    **kwargs: Any,
) -> Prefill | CachedKeys:
    """The mask function of `se_attn`, `sw_attn` and `s2_attn` (arguments: transformers' `AttentionMaskInterface`).

    Raises:
        ValueError: if the mask is neither causal, the model's own window, padded nor packed, or padding lies inside a
            sequence.
    """
    if isinstance(attention_mask, _MaskObject):
        return attention_mask
    # The layers of a SpanCache say that there are no keys but the new ones.
    alone = kv_length == q_length and kv_offset == q_offset
    if not (alone or (q_offset == 0 and kv_offset == 0 and kv_length >= q_length and q_length > 1)):
        mask = sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            use_vmap=use_vmap,
            device=device,
            local_size=local_size,
            # Of several queries a mask that is left out does not tell which keys are theirs.
            allow_is_causal_skip=allow_is_causal_skip and q_length == 1,
            config=config,
            **kwargs,
        )
        return CachedKeys(mask)
    if use_vmap or (kv_offset and mask_function is not causal_mask_function):
        raise ValueError(
            "the model adds a mask of its own, which span-expanded attention does not know; "
            "use attn_implementation='sdpa' for this input"
        )
    # Chunks have a local size too.
    window = local_size if local_size is not None and local_size == getattr(config, "sliding_window", None) else None
    past = real = None
    if attention_mask is not None:
        past, real, _ = attention_mask.to(torch.bool).tensor_split((kv_offset, kv_offset + q_length), dim=1)
        if kv_offset and real.shape[1] != q_length:
            raise ValueError(
                f"attention_mask has {attention_mask.shape[1]} columns, and there are {q_length} new tokens behind "
                f"the {kv_offset} of the cache; pass a mask of both"
            )
    # torch's own generator: whoever seeds or restores it (a training loop, a checkpoint) decides what is drawn.
    # Windows need no draw, and take none from others.
    draws = torch.is_grad_enabled() and window is None
    if torch.compiler.is_compiling():
        # No value can be read. transformers then describes all input without mask or cache as possibly packed. Windows
        # it describes like that anyway, but a model's full attention compares the positions.
        shown = real is None and mask_function is not causal_mask_function
        layout = read_table(*_boundaries(mask_function, real, batch_size, q_length, device, window))
        draw = torch.randint(2**31, ()) if draws else None
        return Prefill(layout, draw, positions_shown=shown, window=window)
    if mask_function is not causal_mask_function:
        layout = read_layout(*_boundaries(mask_function, real, batch_size, q_length, device, window))
    elif real is not None:
        layout = SequenceLayout.from_padding_mask(real)
    else:
        layout = SequenceLayout.dense(batch_size, q_length)
    draw = int(torch.randint(2**31, ()).item()) if draws else None
    before = None
    if kv_offset:
        before = [kv_offset] * batch_size if past is None else past.sum(dim=1).tolist()
    return Prefill(layout, draw, before=before, window=window)


def _boundaries(
    mask_function: Callable,
    real: torch.Tensor | None,
    batch: int,
    length: int,
    device: torch.device | str,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where sequences start, which tokens are real, and which see just what they must: `[B, L]` bool."""
    if real is None:
        real = torch.ones(batch, length, dtype=torch.bool, device=device)

    def visible(rows: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return mask_function(rows, rows.new_zeros(()), queries, keys)

    starts, known = find_boundaries(visible, batch, length, device, window)
    return starts, real, known
