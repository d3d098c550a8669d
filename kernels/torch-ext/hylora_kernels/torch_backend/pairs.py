# SPDX-License-Identifier: Apache-2.0
"""Attention block by block: each block of keys meets the queries that chose it, wherever they stand.

Where every token chooses for itself, gathering its blocks would move far more numbers than are computed with. So pairs
of a query and a block are sorted by block and cut into tiles, each of which reads one block. Only queries are gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Tuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.nn.functional import embedding_bag

from .parts import Part, Tiles


class PairIndex(NamedTuple):
    """Where the pairs lie; queries and blocks are counted over all rows and KV heads of the part.

    Attributes:
        query: `[tiles * pairs of a tile]`, the query at each place, or their number at a place that is left empty.
        place: `[queries, k]`, the place of each pair.
        block: `[tiles]`, what each tile reads.
        first: `[blocks]`, the first tile of each block.
    """

    query: Tensor
    place: Tensor
    block: Tensor
    first: Tensor


@dataclass(frozen=True)
class PairPart(Part):
    """Queries that attend to blocks which each of them chose for itself.

    `queries` is one tile of n; `keys` are the blocks there are, to which `blocks`, `[rows, heads, n, k]`, points. All
    query heads of a group come with a pair, and `pairs` of them go into a tile.
    """

    queries: Tiles
    keys: Tiles
    blocks: Tensor
    pairs: int
    causal = False

    def fold_queries(self, tiles: Tensor, groups: int) -> Tensor:
        """`[rows, Hq, 1, n, ...]` to flash's `[tiles, 1, pairs * groups, ...]`, with zeros at empty places.

        With a gradient of zero, a query takes no part in the gradients of keys and values.
        """
        grouped = tiles.squeeze(2).unflatten(1, (-1, groups)).movedim(2, 3)  # [rows, heads, n, groups, ...]
        table = grouped.new_zeros(self._index.place.shape[0] + 1, grouped[0, 0, 0].numel())
        table[:-1].view(grouped.shape).copy_(grouped)
        gathered = table.index_select(0, self._index.query)
        return gathered.view(-1, 1, self.pairs * groups, *grouped.shape[4:])

    def unfold_queries(self, folded: Tensor, like: Tensor, groups: int) -> Tensor:
        """Sums over the pairs of each query, as the tiles that `fold_queries` took."""
        table = folded.reshape(self._index.query.shape[0], -1).to(like.dtype)
        return self._as_tiles(embedding_bag(self._index.place, table, mode="sum"), groups)

    def join(self, output: Tensor, lse: Tensor, like: Tensor, groups: int) -> Tuple[Tensor, Tensor]:
        """Output and log-sum-exp of each query over all of its pairs."""
        place = self._index.place[:, None] * groups + torch.arange(groups, device=lse.device)[:, None]
        place = place.flatten(0, 1)  # [queries * groups, k]
        of_pair = lse.flatten()[place]
        whole = of_pair.logsumexp(dim=1)
        weights = torch.exp(of_pair - whole[:, None])
        output = embedding_bag(place, output.flatten(0, 2).to(lse.dtype), mode="sum", per_sample_weights=weights)
        return self._as_tiles(output, groups), self._as_tiles(whole, groups).squeeze(4)

    def take_keys(self, x: Tensor, groups: int) -> Tensor:
        """The block of each tile, of keys or values, in flash's shape."""
        blocks = self.keys.of(x)
        taken = blocks.flatten(0, 2).flatten(1).index_select(0, self._index.block)
        return taken.view(-1, 1, *blocks.shape[3:])

    def add_key_gradient(self, total: Tensor, grad: Tensor, groups: int):
        """Add a gradient in flash's shape to that of all keys."""
        blocks = self.keys.of(total)
        tiles = torch.arange(len(grad), device=grad.device)
        summed = embedding_bag(tiles, grad.flatten(1).to(total.dtype), self._index.first, mode="sum")
        blocks.add_(summed.view(blocks.shape))

    @cached_property
    def _index(self) -> PairIndex:
        rows, heads, n, k = self.blocks.shape
        every = torch.arange(rows * heads * self.keys.count, device=self.blocks.device)
        own = every[:: self.keys.count].view(rows, heads, 1, 1)  # the first block of each row and head
        block, order = (self.blocks + own).flatten().sort(stable=True)
        begin = torch.searchsorted(block, every)
        tiles = (torch.searchsorted(block, every, right=True) - begin + self.pairs - 1) // self.pairs
        first = tiles.cumsum(0) - tiles
        total = _value(tiles.sum(), at_most=len(order) // self.pairs + len(every))
        at = torch.arange(len(order), device=block.device) + (first * self.pairs - begin)[block]
        query = order.new_full((total * self.pairs,), rows * heads * n).index_copy_(0, at, order // k)
        place = torch.empty_like(order).index_copy_(0, order, at).view(-1, k)
        return PairIndex(query, place, every.repeat_interleave(tiles, output_size=total), first)

    def _as_tiles(self, x: Tensor, groups: int) -> Tensor:
        """`[queries * groups * D]` in any shape as `[rows, Hq, 1, n, D]`."""
        return x.view(*self.blocks.shape[:3], groups, -1).movedim(3, 2).flatten(1, 2)[:, :, None]


def _value(number: Tensor, at_most: int) -> int:
    """An integer on the host; of a tensor without storage, as plans are made with, the most that it can be."""
    try:
        return int(number)
    except DataDependentOutputException:
        return at_most
