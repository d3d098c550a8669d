# SPDX-License-Identifier: Apache-2.0
"""The GPUs that a plan is for."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["GIB", "Hardware"]

GIB = 2**30
_FORM = re.compile(r"(?:(\d+)\s*x\s*)?(?:(\d+(?:\.\d+)?)\s*(?:GB|GiB)|(.*?))", re.IGNORECASE)
# GB of GPUs that are often rented, by name without blanks.
_KNOWN = {
    "a100-40": 40,
    "a100-80": 80,
    "h100": 80,
    "h200": 141,
    "b200": 180,
    "l40s": 48,
    "a10g": 24,
    "rtx4090": 24,
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
        memory = _KNOWN.get(re.sub(r"\s", "", name).lower()) if size is None else size
        if memory is None:
            known = ", ".join(name.upper() for name in _KNOWN)
            raise ValueError(
                f"gpus={text!r} must be a number of GPUs and the memory of each, like 1x80GB, or the name of one of "
                f"{known}, like 8xH100"
            )
        hardware = cls(int(count or 1), int(float(memory) * GIB))
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
