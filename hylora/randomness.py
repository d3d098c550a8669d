# SPDX-License-Identifier: Apache-2.0
"""Randomness without state: every draw is a function of the seed and of where training stands.

A resumed run needs no saved generator, and whatever else draws random numbers in between changes nothing.
"""

from __future__ import annotations

import hashlib

__all__ = ["derive_key"]


def derive_key(*parts: int | str) -> int:
    """A 63-bit seed from its parts; any difference in them gives an unrelated one."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
