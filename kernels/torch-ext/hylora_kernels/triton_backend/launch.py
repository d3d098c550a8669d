# SPDX-License-Identifier: Apache-2.0
"""Tile sizes, warps and pipeline stages of each kernel, kept in one JSON file per kernel.

A file maps an architecture ("sm_80", "sm_90"), a width of numbers ("half", "single") and a head dimension to a launch.
A device takes the newest architecture that is not newer than it, a head dimension the smallest listed that holds it.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Callable, Dict, Iterator, NamedTuple, Tuple, Union

import torch
import triton

_FOLDER = Path(__file__).parent / "launches"
_forced: Dict[str, Launch] = {}


class Launch(NamedTuple):
    """How a kernel is launched: rows and columns of its tile (of what, the kernel says), warps, pipeline stages."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def settings(self, head_dim: int) -> Dict[str, int]:
        """What kernels are told by name: the head dimension, padded too, and what Triton takes for itself."""
        return {"HEAD_DIM": head_dim, "BLOCK_D": padded(head_dim), **self._taken()}

    def piece_settings(self, head_dim: int) -> Dict[str, Union[int, Tuple[int, ...]]]:
        """The same for kernels whose tiles come in pieces: the width of each in place of the padded head dimension."""
        return {"HEAD_DIM": head_dim, "WIDTHS": piece_widths(head_dim), **self._taken()}

    def _taken(self) -> Dict[str, int]:
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


def padded(size: int) -> int:
    """The power of two that a tile takes for so many rows or columns; matrix units want 16 at least."""
    return triton.next_power_of_2(max(16, size))


def piece_widths(head_dim: int) -> Tuple[int, ...]:
    """One or two powers of two of at least 16 that hold a head dimension: two where that pads it less.

    160 is (128, 32), 80 is (64, 16), and 120 is (128,).
    """
    whole = padded(head_dim)
    rest = padded(head_dim - whole // 2)
    return (whole // 2, rest) if rest < whole // 2 else (whole,)


def launch_for(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> Launch:
    """The launch of a kernel for this head dimension and dtype on this device."""
    if kernel in _forced:
        return _forced[kernel]
    return _listed(kernel, head_dim, "half" if dtype.itemsize == 2 else "single", capability(device))


def capability(device: torch.device) -> Tuple[int, int]:
    """The device's compute capability; on a CPU, for the interpreter, that of an H100."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def has_small_memory(version: Tuple[int, int]) -> bool:
    """Whether a program has only about 99 KiB of shared memory, as on GPUs for workstations."""
    return version in ((8, 6), (8, 9)) or version[0] == 12


def on_its_device(function: Callable) -> Callable:
    """Make the device of the first argument current for a call: Triton launches there, wherever tensors lie."""

    @wraps(function)
    def call(tensor: torch.Tensor, *args, **kwargs):
        with torch.cuda.device_of(tensor):
            return function(tensor, *args, **kwargs)

    return call


@contextmanager
def forced(**launches: Launch) -> Iterator[None]:
    """Launch the named kernels like this for a while: for tuning, and for tests at tiny sizes."""
    before = dict(_forced)
    _forced.update(launches)
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


@lru_cache(maxsize=None)
def _listed(kernel: str, head_dim: int, width: str, version: Tuple[int, int]) -> Launch:
    architectures = json.loads((_FOLDER / f"{kernel}.json").read_text())
    number = 80 if has_small_memory(version) else 10 * version[0] + version[1]
    name = max((a for a in architectures if int(a[3:]) <= number), key=lambda a: int(a[3:]))
    by_head_dim = architectures[name][width]
    return Launch(**by_head_dim[min((d for d in by_head_dim if int(d) >= head_dim), key=int)])
