# SPDX-License-Identifier: Apache-2.0
"""Randomness without state: every draw is a function of a seed and of what it is for.

A resumed run needs no saved generator, and whatever else draws random numbers in between changes nothing.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_key", "generator"]


def derive_key(*parts: int | str) -> int:
    """A 63-bit seed from its parts; any difference in them gives an unrelated one."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A generator on the CPU, seeded by `derive_key`."""
    return torch.Generator().manual_seed(derive_key(*parts))
