# SPDX-License-Identifier: Apache-2.0
"""Attention as a sum of parts: a few flash calls that share one softmax.

A part is a batch of equally large attention problems: some queries, and keys they all see (or see causally). The same
query may occur in several parts; their results are merged by log-sum-exp. The backward is exact: see
`flash.flash_backward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..inputs import accumulation_dtype
from ..saved import Saved
from ..scoring import Scoring
from .flash import flash_backward, flash_forward


class Tiles(NamedTuple):
    """`count` runs of `size` neighbouring positions, the first at `start`, in the given rows and heads.

    The runs adjoin, or start `stride` positions apart.
    """

    rows: slice
    start: int
    count: int
    size: int
    heads: slice = slice(None)
    stride: Optional[int] = None

    def of(self, x: Tensor) -> Tensor:
        """View `[B, H, L, ...]` as `[rows, heads, count, size, ...]`."""
        stride = self.stride or self.size
        runs = x[self.rows, self.heads, self.start : self.start + self.count * stride]
        return runs.unflatten(2, (self.count, stride))[:, :, :, : self.size]


class Part:
    """Some queries and the keys that they attend to.

    Here the parts whose queries are each in one problem: they say how queries and keys become flash's `[N, C, L, D]`.
    """

    queries: Tiles
    causal: bool

    def forward(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tuple[Tensor, Tensor]:
        """Output and log-sum-exp of the part's queries, as `queries.of` gives them."""
        groups = query.shape[1] // key.shape[1]
        tiles = self.queries.of(query)
        keys, values = self.take_keys(key, groups), self.take_keys(value, groups)
        found = flash_forward(self.fold_queries(tiles, groups), keys, values, self.causal, scoring)
        return tuple(self.unfold_queries(x, tiles, groups) for x in found)

    def backward(self, grad: Tensor, saved: Saved, grads: List[Tensor], scoring: Scoring):
        """Add the part's share to the gradients of query, key and value."""
        query, key, value, output, lse, _ = saved
        groups = query.shape[1] // key.shape[1]
        folded = [self.fold_queries(self.queries.of(x), groups) for x in (grad, query, output, lse)]
        keys, values = self.take_keys(key, groups), self.take_keys(value, groups)
        shares = flash_backward(*folded[:2], keys, values, *folded[2:], self.causal, scoring)
        tiles = self.queries.of(grads[0])
        tiles.add_(self.unfold_queries(shares[0], tiles, groups))
        for total, share in zip(grads[1:], shares[1:]):
            self.add_key_gradient(total, share, groups)


@dataclass(frozen=True)
class TilePart(Part):
    """Tiles of queries that attend to tiles of keys, one to one; key heads are repeated for their group.

    `backwards` turns both tiles around, so that `causal` means: query i sees the keys from i on.
    """

    queries: Tiles
    keys: Tiles
    causal: bool
    backwards: bool = False

    def fold_queries(self, tiles: Tensor, groups: int) -> Tensor:
        """`[rows, Hq, count, size, ...]` to flash's `[N, C, L, ...]`."""
        return self._turn(tiles.flatten(0, 1))

    def unfold_queries(self, folded: Tensor, like: Tensor, groups: int) -> Tensor:
        """The inverse of `fold_queries`."""
        return self._turn(folded).unflatten(0, like.shape[:2])

    def take_keys(self, x: Tensor, groups: int) -> Tensor:
        """The part's keys (or values) in flash's shape."""
        tiles = self.keys.of(x)
        if groups > 1:
            tiles = tiles.repeat_interleave(groups, dim=1)
        return self._turn(tiles.flatten(0, 1))

    def add_key_gradient(self, total: Tensor, grad: Tensor, groups: int):
        """Add a gradient in flash's shape to that of all keys."""
        tiles = self.keys.of(total)
        grad = self._turn(grad)
        if groups > 1:
            grad = grad.unflatten(0, (-1, groups)).sum(dim=1, dtype=total.dtype)
        tiles.add_(grad.unflatten(0, tiles.shape[:2]))

    def _turn(self, x: Tensor) -> Tensor:
        return x.flip(2) if self.backwards else x


@dataclass(frozen=True)
class BlockPart(Part):
    """Tiles of queries that attend to blocks of keys chosen by index.

    `keys` are the blocks there are, to which `blocks`, `[rows, Hkv, count, k]`, points. The query heads of a group
    share their blocks, so they are folded into the rows of one problem and each block is gathered once.
    """

    queries: Tiles
    keys: Tiles
    blocks: Tensor
    causal = False

    def fold_queries(self, tiles: Tensor, groups: int) -> Tensor:
        """`[rows, Hq, count, size, ...]` to `[rows * Hkv, count, groups * size, ...]`."""
        return tiles.unflatten(1, (-1, groups)).movedim(2, 3).flatten(3, 4).flatten(0, 1)

    def unfold_queries(self, folded: Tensor, like: Tensor, groups: int) -> Tensor:
        """The inverse of `fold_queries`."""
        folded = folded.unflatten(2, (groups, -1)).unflatten(0, (like.shape[0], -1))
        return folded.movedim(3, 2).flatten(1, 2)

    def take_keys(self, x: Tensor, groups: int) -> Tensor:
        """The part's keys (or values) in flash's shape."""
        return self.keys.of(x)[self._index()].flatten(3, 4).flatten(0, 1)

    def add_key_gradient(self, total: Tensor, grad: Tensor, groups: int):
        """Add a gradient in flash's shape to that of all keys."""
        grad = grad.unflatten(0, self.blocks.shape[:2]).unflatten(3, (-1, self.keys.size))
        # Accumulating index_put_ is deterministic on every device, unlike index_add_.
        self.keys.of(total).index_put_(self._index(), grad.to(total.dtype), accumulate=True)

    def _index(self):
        rows, heads = (torch.arange(n, device=self.blocks.device) for n in self.blocks.shape[:2])
        return rows[:, None, None, None], heads[:, None, None], self.blocks


def attend_forward(
    query: Tensor, key: Tensor, value: Tensor, parts: Iterable[Part], scoring: Scoring
) -> Tuple[Tensor, Tensor]:
    """Attention of every query to the union of the keys its parts give it; zeros where no part does.

    The parts of one query must not overlap in keys. Returns the output, and the log-sum-exp of each query's scores,
    -inf where no part has the query.
    """
    dtype = accumulation_dtype(query.dtype)
    output = query.new_zeros(query.shape, dtype=dtype)
    lse = query.new_full(query.shape[:-1], float("-inf"), dtype=dtype)
    for part in parts:
        part_output, part_lse = part.forward(query, key, value, scoring)
        output_tiles, lse_tiles = part.queries.of(output), part.queries.of(lse)
        # Where a part has nothing for a query, nor had those before, there is no difference of the two.
        share = torch.sigmoid(part_lse - lse_tiles).masked_fill_(part_lse == float("-inf"), 0)
        output_tiles.lerp_(part_output.to(dtype), share[..., None])
        torch.logaddexp(lse_tiles, part_lse, out=lse_tiles)
    return output.to(query.dtype), lse


def attend_backward(
    grad: Tensor,
    saved: Saved,
    parts: Iterable[Part],
    scoring: Scoring,
    lse_grad: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what `attend_forward` gave and the gradients of it."""
    dtype, head_dim = accumulation_dtype(grad.dtype), grad.shape[-1]
    if lse_grad is not None:
        grad, saved = _with_lse_grad(grad, saved, lse_grad)
    grads = [x.new_zeros(x.shape, dtype=dtype) for x in saved[:3]]
    for part in parts:
        part.backward(grad, saved, grads, scoring)
    return tuple(x[..., :head_dim].to(grad.dtype) for x in grads)


def _with_lse_grad(grad: Tensor, saved: Saved, lse_grad: Tensor) -> Tuple[Tensor, Saved]:
    """The arguments of a backward, made so that it gives the gradients through the log-sum-exp too.

    With P the weights, the gradient of the scores is P * (dO V^T - rowsum(dO * O) + dlse). Flash backwards compute the
    row sum themselves; a column more, of ones beside dO and of -dlse beside O, brings the last term into it.
    """
    query, key, value = (torch.nn.functional.pad(x, (0, 1)) for x in saved[:3])
    output = torch.cat([saved.output, -lse_grad[..., None].to(saved.output.dtype)], dim=-1)
    saved = saved._replace(query=query, key=key, value=value, output=output)
    return torch.nn.functional.pad(grad, (0, 1), value=1.0), saved
