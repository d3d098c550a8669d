# SPDX-License-Identifier: Apache-2.0
"""Attention block by block: each block of keys meets the queries that chose it, wherever they stand.

Where every token chooses for itself, to gather its blocks would move far more numbers than are computed with. So the
pairs of a query and a block are sorted by block and cut into tiles, each of which reads one block: what is gathered
are queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.nn.functional import embedding_bag

from ..inputs import accumulation_dtype
from ..saved import Saved
from ..scoring import Scoring
from .flash import flash_backward, flash_forward
from .parts import Part, Tiles

# Rows in a tile: with fewer the products are slower, with more the last tile of a block is emptier.
_ROWS = 64
# The outputs of a part's pairs hold at most about this many numbers.
_PAIRS = 1 << 24
# Queries are gathered about so many numbers at a time, which should stay in a CPU's cache.
_SLICE = 1 << 18


class PairIndex(NamedTuple):
    """Where the pairs lie; queries and blocks are counted over all rows and KV heads of the part.

    Attributes:
        query: `[tiles, pairs of a tile]`, the query at each place; a place left empty has the number of queries.
        place: `[queries, k]`, the place of each pair; of a block that is missing, the one behind all tiles.
        block: `[tiles]`, what each tile reads.
    """

    query: Tensor
    place: Tensor
    block: Tensor


@dataclass(frozen=True)
class PairPart(Part):
    """Queries that attend to blocks which each of them chose for itself.

    `queries` is one tile of n; `keys` are the blocks there are, to which `blocks`, `[rows, kv_heads, n, k]`, points,
    with -1 for none. A pair brings the rows of all `groups` query heads that share a KV head and its choice.
    """

    queries: Tiles
    keys: Tiles
    blocks: Tensor
    groups: int

    def forward(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tuple[Tensor, Tensor]:
        """Output and log-sum-exp of the queries over all of their pairs."""
        query, key, value = self._query_table(query), self._key_table(key), self._key_table(value)
        dtype = accumulation_dtype(query.dtype)
        lse, lse_tiles = self._places(query, dtype, float("-inf"))
        output, output_tiles = self._places(query, dtype, 0.0, query.shape[-1])
        for at in self._slices(query):
            tiles = self._take_queries(query, at), self._take_keys(key, at), self._take_keys(value, at)
            found = flash_forward(*tiles, False, scoring)
            output_tiles[at], lse_tiles[at] = (x.squeeze(1) for x in found)

        # The heads of a group lie side by side; each has its own weights for the pairs.
        place = self._index.place[:, None] * self.groups + torch.arange(self.groups, device=lse.device)[:, None]
        of_pair = lse.flatten()[place]
        whole = of_pair.logsumexp(dim=-1)
        # A query without blocks has neither weights nor a log-sum-exp to subtract.
        pivot = whole.masked_fill(whole == float("-inf"), 0)
        weights = torch.exp(of_pair - pivot[..., None]).flatten(0, 1)
        joined = embedding_bag(place.flatten(0, 1), output.flatten(0, 1), mode="sum", per_sample_weights=weights)
        return self._as_tiles(joined.unflatten(0, whole.shape)), self._as_tiles(whole)

    def backward(self, grad: Tensor, saved: Saved, grads: List[Tensor], scoring: Scoring):
        """Add the part's share to the gradients of query, key and value."""
        tables = [self._query_table(x) for x in (grad, saved.query, saved.output, saved.lse)]
        key, value = self._key_table(saved.key), self._key_table(saved.value)
        dtype, head_dim = grads[0].dtype, key.shape[-1]
        grad_query, query_tiles = self._places(key, dtype, 0.0, head_dim)
        totals = [x.new_zeros(x.shape, dtype=dtype) for x in (key, value)]
        for at in self._slices(key):
            # An empty place has a gradient of zero and so no share in the others.
            part_grad, query, output, lse = (self._take_queries(x, at) for x in tables)
            keys, values = self._take_keys(key, at), self._take_keys(value, at)
            shares = flash_backward(part_grad, query, keys, values, output, lse, False, scoring)
            shares = [x.squeeze(1).to(dtype) for x in shares]
            query_tiles[at] = shares[0]
            for total, share in zip(totals, shares[1:]):
                # Accumulating index_put_ is deterministic on every device, unlike index_add_.
                total.index_put_((self._index.block[at],), share, accumulate=True)

        summed = embedding_bag(self._index.place, grad_query.flatten(1), mode="sum")
        summed = summed.unflatten(1, (self.groups, head_dim))
        self.queries.of(grads[0]).add_(self._as_tiles(summed))
        for whole, total in zip(grads[1:], totals):
            tiles = self.keys.of(whole)
            tiles.add_(total.view(tiles.shape))

    @cached_property
    def _index(self) -> PairIndex:
        rows, heads, n, k = self.blocks.shape
        every = torch.arange(rows * heads * self.keys.count, device=self.blocks.device)
        first_block = every[:: self.keys.count].view(rows, heads, 1, 1)
        block, order = torch.where(self.blocks < 0, len(every), self.blocks + first_block).flatten().sort(stable=True)
        pairs = max(1, _ROWS // self.groups)
        begin = torch.searchsorted(block, every)
        tiles = (torch.searchsorted(block, every, right=True) - begin + pairs - 1) // pairs
        first_place = (tiles.cumsum(0) - tiles) * pairs
        total = _value(tiles.sum(), at_most=len(order) // pairs + len(every))
        at = torch.arange(len(order), device=block.device) + (first_place - begin)[block.clamp(max=len(every) - 1)]
        at = at.where(block < len(every), total * pairs)  # missing blocks, which come last, are behind all tiles
        query = order.new_full((total * pairs + 1,), rows * heads * n).index_copy_(0, at, order // k)[:-1]
        place = torch.empty_like(order).index_copy_(0, order, at)
        block_of_tile = every.repeat_interleave(tiles, output_size=total)
        return PairIndex(query.view(total, pairs), place.view(-1, k), block_of_tile)

    @property
    def _rows(self) -> Tuple[int, int]:
        """How many tiles there are, and rows in a tile."""
        tiles, pairs = self._index.query.shape
        return tiles, pairs * self.groups

    def _places(self, like: Tensor, dtype: torch.dtype, missing: float, *width: int) -> Tuple[Tensor, Tensor]:
        """Room for what each place gives, `[places + 1, groups, *width]`, the last one for missing blocks; and all but
        that one as tiles, `[tiles, rows, *width]`."""
        tiles, rows = self._rows
        room = like.new_empty(tiles * rows // self.groups + 1, self.groups, *width, dtype=dtype)
        room[-1] = missing
        return room, room[:-1].view(tiles, rows, *width)

    def _slices(self, like: Tensor) -> Iterator[slice]:
        """The tiles, some of them at a time."""
        tiles, rows = self._rows
        step = max(1, _SLICE // (rows * like.shape[-1]))
        return (slice(first, first + step) for first in range(0, tiles, step))

    def _query_table(self, x: Tensor) -> Tensor:
        """`[queries + 1, groups, ...]`, the last one zeros, for the places left empty."""
        tiles = self.queries.of(x).squeeze(2).unflatten(1, (-1, self.groups)).movedim(2, 3)
        table = tiles.flatten(0, 2)
        return torch.cat([table, table.new_zeros(1, *table.shape[1:])])

    def _key_table(self, x: Tensor) -> Tensor:
        """`[blocks, block_size, D]`."""
        return self.keys.of(x).flatten(0, 2).contiguous()

    def _take_queries(self, table: Tensor, at: slice) -> Tensor:
        """Some tiles of queries in flash's shape."""
        index = self._index.query[at]
        taken = table.flatten(1).index_select(0, index.flatten())
        return taken.view(len(index), 1, -1, *table.shape[2:])

    def _take_keys(self, table: Tensor, at: slice) -> Tensor:
        """The blocks that some tiles read, in flash's shape."""
        return table.flatten(1).index_select(0, self._index.block[at]).view(-1, 1, *table.shape[1:])

    def _as_tiles(self, table: Tensor) -> Tensor:
        """`[queries, groups, ...]` as `queries.of` gives them."""
        return table.unflatten(0, self.blocks.shape[:3]).movedim(3, 2).flatten(1, 2).unsqueeze(2)


def pair_parts(queries: Tiles, keys: Tiles, blocks: Tensor, query: Tensor) -> Iterator[PairPart]:
    """The parts in which tiles of queries attend to the blocks `[rows, kv_heads, count, k]` of `keys` that they chose.

    A part takes many queries of one head rather than few of all, since those share blocks.
    """
    blocks = blocks.repeat_interleave(queries.size, dim=2)
    rows, heads, n, k = blocks.shape
    groups = query.shape[1] // heads
    most = max(1, _PAIRS // (k * groups * query.shape[3]))
    steps = max(1, most // (heads * n)), max(1, most // n), -(-n // -(-n // most))
    for row, head, first in product(*(range(0, size, step) for size, step in zip(blocks.shape, steps))):
        some = blocks[row : row + steps[0], head : head + steps[1], first : first + steps[2]]
        at = slice(queries.rows.start + row, queries.rows.start + row + some.shape[0])
        last = head + some.shape[1]
        yield PairPart(
            Tiles(at, queries.start + first, 1, some.shape[2], slice(head * groups, last * groups)),
            keys._replace(rows=at, heads=slice(head, last)),
            some,
            groups,
        )


def _value(number: Tensor, at_most: int) -> int:
    """An integer on the host. Tensors without storage, with which steps are planned, get the most that it can be."""
    try:
        return int(number)
    except DataDependentOutputException:
        return at_most
