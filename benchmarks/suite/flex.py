# SPDX-License-Identifier: Apache-2.0
"""FlexAttention under the masks of span-expanded attention (for given blocks) and of the sliding window.

The tables of tiles are made here and not by `create_block_mask`, which builds the whole mask: 17 GB a head at 128k.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from hylora_kernels import select_blocks

from .methods import Attend, Method, Options

# FlexAttention's own default, which its kernels are tuned for.
TILE = 128


def flex_methods(
    options: Options, own: dict[str, Method], retrieval: str, lengths: tuple[int, ...]
) -> dict[str, Method]:
    """FlexAttention in place of the own methods "se" and "sw"."""
    missing = None
    if options.device == "cpu":
        missing = "FlexAttention has no backward pass on a CPU"
    elif options.chunk_size % TILE or options.window % TILE or TILE % options.block_size:
        missing = f"chunk_size and window must be multiples of {TILE}, which block_size must divide"

    def method(name: str, block_mask: Callable[..., BlockMask]) -> Method:
        def bind(query: Tensor, key: Tensor, value: Tensor) -> Attend:
            mask = block_mask(query, key, value)
            return partial(compiled(), block_mask=mask, enable_gqa=query.shape[1] != key.shape[1])

        label = f"FlexAttention, {own[name].label} mask"
        return Method(
            label,
            bind,
            own[name].expected,
            own[name].pairs,
            check_length=3 * options.chunk_size,
            lengths=lengths,
            missing=missing,
        )

    def span(query: Tensor, key: Tensor, value: Tensor) -> BlockMask:
        blocks = select_blocks(query, key, value, **options.span, retrieval=retrieval)[0]
        return span_block_mask(blocks, options, query.shape[1], query.shape[2])

    def window(query: Tensor, key: Tensor, value: Tensor) -> BlockMask:
        return window_block_mask(options.window, query.shape[2], query.device)

    return {"flex_se": method("se", span), "flex_sw": method("sw", window)}


@cache
def compiled() -> Callable[..., Tensor]:
    """FlexAttention as one kernel; each mask and shape is compiled anew."""
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(flex_attention, dynamic=False)


def span_block_mask(blocks: Tensor, options: Options, heads: int, length: int, tile: int = TILE) -> BlockMask:
    """The mask of span-expanded attention that retrieves `blocks` `[Hkv, chunks, top_k]` (-1: none), by chunk."""
    kv_heads, chunks = blocks.shape[:2]
    size, chunk = options.block_size, options.chunk_size
    tiles = -(-length // tile)
    count = tiles * tile // size
    # The last column takes what is no block.
    chosen = torch.zeros(kv_heads, chunks, count + 1, dtype=torch.bool, device=blocks.device)
    chosen.scatter_(2, blocks.masked_fill(blocks < 0, count), True)
    chosen[:, :, count] = False
    groups = heads // kv_heads

    def visible(batch, head, query, key):
        own = (query // chunk == key // chunk) & (key <= query)
        return own | chosen[head // groups, query // chunk, key // size]

    retrieved = chosen[:, :, :count].unflatten(2, (tiles, tile // size)).any(dim=3)
    retrieved = retrieved.repeat_interleave(chunk // tile, dim=1)[:, :tiles].repeat_interleave(groups, dim=0)
    row, column = torch.arange(tiles, device=blocks.device)[:, None], torch.arange(tiles, device=blocks.device)
    whole = (row // (chunk // tile) == column // (chunk // tile)) & (column < row)
    return _block_mask(retrieved | (row == column), whole.expand_as(retrieved), visible, length, tile)


def window_block_mask(window: int, length: int, device: torch.device, tile: int = TILE) -> BlockMask:
    """The mask of a sliding window, one for all heads."""

    def visible(batch, head, query, key):
        return (key <= query) & (query - key < window)

    tiles = -(-length // tile)
    behind = torch.arange(tiles, device=device)[:, None] - torch.arange(tiles, device=device)
    partly = (behind == 0) | (behind == window // tile)
    return _block_mask(partly[None], ((behind > 0) & (behind < window // tile))[None], visible, length, tile)


def _block_mask(partly: Tensor, whole: Tensor, visible: Callable, length: int, tile: int) -> BlockMask:
    """From which tiles `[heads, tiles, tiles]` are seen in part and which as a whole."""
    tables = []
    for tiles in (partly, whole):
        order = tiles.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        tables += [tiles.sum(dim=-1, dtype=torch.int32)[None], order.to(torch.int32)[None]]
    return BlockMask.from_kv_blocks(*tables, BLOCK_SIZE=tile, mask_mod=visible, seq_lengths=(length, length))
