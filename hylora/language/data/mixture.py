# SPDX-License-Identifier: Apache-2.0
"""Several sources in fixed shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["MixedRows", "next_source"]


def next_source(counts: Sequence[int], weights: Sequence[float]) -> int:
    """The source of the next row, so that after any number of rows each has its share to within about one row.

    Args:
        counts: rows taken from each source so far.
        weights: the shares, in any scale.
    """
    return min(range(len(weights)), key=lambda source: (counts[source] + 0.5) / weights[source])


class MixedRows(torch.utils.data.Dataset):
    """Map-style rows of several sources in fixed shares.

    An epoch is as long as it takes to see every row of every source; a source that is used up before begins again, so
    the shares hold from the first row to the last. Sources take turns by `next_source`; each is read in an order
    drawn anew for every pass, keyed by the seed.

    Args:
        sources: map-style rows, none of them empty.
        weights: their shares, in any scale.
        seed: keys the order of each source.

    Attributes:
        counts: rows taken from each source in an epoch.
    """

    def __init__(self, sources: Sequence[torch.utils.data.Dataset], weights: Sequence[float], seed: int) -> None:
        self._sources = list(sources)
        sizes = np.array([len(source) for source in sources])
        shares = np.array(weights, dtype=np.float64) / sum(weights)
        self.counts = [int(count) for count in np.rint((sizes / shares).max() * shares)]
        # The turn of row k of a source comes at (k + 1/2) / weight: the order that `next_source` follows step by step.
        turns = np.concatenate([(np.arange(n) + 0.5) / weight for n, weight in zip(self.counts, weights, strict=True)])
        order = np.argsort(turns, kind="stable")
        self._source_of = np.repeat(np.arange(len(sizes)), self.counts)[order].astype(np.uint16)
        self._row_of = np.concatenate(
            [_passes(size, n, [seed, source]) for source, (size, n) in enumerate(zip(sizes, self.counts, strict=True))]
        )[order]

    def __len__(self) -> int:
        return len(self._row_of)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._sources[self._source_of[index]][int(self._row_of[index])]


def _passes(size: int, count: int, key: list[int]) -> np.ndarray:
    """`count` row numbers from as many passes over `size` rows as that takes, each in its own order."""
    passes = range(-(-count // size))
    return np.concatenate([np.random.default_rng([*key, number]).permutation(size) for number in passes])[:count]
