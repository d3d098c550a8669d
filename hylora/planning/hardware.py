# SPDX-License-Identifier: Apache-2.0
"""The GPUs that a plan is for."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["GIB", "Hardware"]

GIB = 2**30

_FORM = re.compile(r"(?:(\d+)\s*x\s*)?(?:(\d+(?:\.\d+)?)\s*(?:GB|GiB)|(.*?))", re.IGNORECASE)
# GB of GPUs that are often rented; fewer than they are sold with where error correction takes some.
_KNOWN = {
    "A100-40GB": 40,
    "A100-80GB": 80,
    "H100": 80,
    "H200": 141,
    "B200": 180,
    "MI300X": 192,
    "L40S": 45,
    "L4": 22.5,
    "A10G": 22.5,
    "RTX4090": 24,
    "RTX5090": 32,
}


@dataclass(frozen=True)
class Hardware:
    """Some GPUs of one kind.

    Args:
        gpus: how many.
        memory: bytes of each; an "80 GB" card has 80 GiB.
    """

    gpus: int
    memory: int

    @classmethod
    def parse(cls, text: str) -> Hardware:
        """Read `8x80GB`, or `24GB` for one; a known GPU's name stands for its memory, as in `8xH100`.

        Raises:
            ValueError: if the text has another form, or says that there are no GPUs or no memory.
        """
        count, size, name = _FORM.fullmatch(text.strip()).groups()
        if size is None:
            size = next((memory for known, memory in _KNOWN.items() if _plain(known) == _plain(name)), None)
        if size is None:
            raise ValueError(
                f"gpus={text!r} must be a number of GPUs and the memory of each, like 1x80GB, or the name of one of "
                f"{', '.join(_KNOWN)}, like 8xH100"
            )
        hardware = cls(int(count or 1), int(float(size) * GIB))
        if not hardware.gpus or not hardware.memory:
            raise ValueError(f"gpus={text!r} must leave something to train on; give at least one GPU with some memory")
        return hardware

    @property
    def reserve(self) -> int:
        """Bytes of each GPU that are not planned with.

        2 GiB for the CUDA context and the libraries' workspaces (3 GiB where GPUs talk to each other), and 4 % for
        memory that the allocator cannot use because it is in pieces.
        """
        return (2 if self.gpus == 1 else 3) * GIB + self.memory // 25

    @property
    def usable(self) -> int:
        """Bytes of each GPU that tensors may fill."""
        return max(0, self.memory - self.reserve)

    def __str__(self) -> str:
        return f"{self.gpus}x{self.memory / GIB:g}GB"


def _plain(name: str) -> str:
    """A GPU's name as people shorten it: `RTX 4090` and `4090`, `A100-80GB` and `a100 80`."""
    return re.sub(r"^(nvidia|amd|rtx|geforce)+|gb$|[^a-z0-9]", "", re.sub(r"[\s-]", "", name.lower()))
