# SPDX-License-Identifier: Apache-2.0
"""Randomness without state: every draw is a function of the seed and of where training stands.

A resumed run needs no saved generator, and whatever else draws random numbers in between changes nothing.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["RowOrder", "derive_key"]


def derive_key(*parts: int | str) -> int:
    """A 63-bit seed from its parts; any difference in them gives an unrelated one."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class RowOrder:
    """The order in which rows are seen: each epoch is a permutation keyed by (seed, epoch), one epoch after another.

    Args:
        rows: how many there are.
        seed: of the permutations.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self._epoch: int | None = None
        self._permutation: list[int] = []

    def __getitem__(self, position: int) -> int:
        """The row at a position counted from the start of training, over all epochs."""
        epoch, within = divmod(position, self.rows)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_key("order", self.seed, epoch))
            self._permutation = torch.randperm(self.rows, generator=generator).tolist()
            self._epoch = epoch
        return self._permutation[within]
