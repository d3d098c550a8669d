# SPDX-License-Identifier: Apache-2.0
"""Several sources in fixed shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hylora.randomness import derive_key

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
        self._seed = seed
        sizes = np.array([len(source) for source in sources])
        shares = np.array(weights, dtype=np.float64) / sum(weights)
        self.counts = [int(count) for count in np.rint((sizes / shares).max() * shares)]
        # The turn of row k of a source comes at (k + 1/2) / weight: the order that `next_source` follows step by step.
        turns = np.concatenate([(np.arange(n) + 0.5) / weight for n, weight in zip(self.counts, weights, strict=True)])
        order = np.argsort(turns, kind="stable")
        self._source_of = np.repeat(np.arange(len(sizes)), self.counts)[order].astype(np.uint16)
        self._number_of = np.concatenate([np.arange(count) for count in self.counts])[order]
        self._passes: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._source_of)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.at(0, index)

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """A row of any epoch: later ones go on with each source where the one before ended, in new orders.

        Args:
            epoch: from 0.
            index: of the row in it.
        """
        source = int(self._source_of[index])
        number = epoch * self.counts[source] + int(self._number_of[index])
        number_of_pass, place = divmod(number, len(self._sources[source]))
        return self._sources[source][int(self._order(source, number_of_pass)[place])]

    def _order(self, source: int, number: int) -> np.ndarray:
        """The order of a pass over a source; that of the last one asked for is kept."""
        known, order = self._passes.get(source, (None, None))
        if known != number:
            key = derive_key("mixture", self._seed, source, number)
            order = np.random.default_rng(key).permutation(len(self._sources[source]))
            self._passes[source] = number, order
        return order
