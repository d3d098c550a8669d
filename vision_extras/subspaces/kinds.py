# SPDX-License-Identifier: Apache-2.0
"""The compressions by name."""

from __future__ import annotations

from vision_extras.subspaces.bits import Bits
from vision_extras.subspaces.compression import Compression
from vision_extras.subspaces.sparsity import Sparsity
from vision_extras.subspaces.width import Width

__all__ = ["COMPRESSIONS"]

COMPRESSIONS: dict[str, type[Compression]] = {kind.name: kind for kind in (Sparsity, Width, Bits)}
