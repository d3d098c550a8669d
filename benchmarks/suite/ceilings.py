# SPDX-License-Identifier: Apache-2.0
"""What this device reaches at best: the rate of a large matrix product and of a large copy, by torch's own kernels."""

from __future__ import annotations

import statistics

import torch

from .timing import cold_stopwatch

_RUNS = 10


def measure_ceilings(device: torch.device, dtype: torch.dtype, side: int, copied: int) -> dict:
    """Operations per second of a square matrix product and bytes per second, read and written, of a copy.

    Args:
        device: to measure.
        dtype: of the matrices, which are random: zeros take less power and go faster.
        side: of the matrices.
        copied: bytes that are copied.
    """
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    timed = cold_stopwatch(device)
    return {
        "matmul": {
            "side": side,
            "dtype": str(dtype).removeprefix("torch."),
            "flops_per_second": 2 * side**3 / _median(lambda: left @ right, timed, device),
        },
        "copy": {
            "bytes": copied,
            "bytes_per_second": 2 * copied / _median(lambda: target.copy_(source), timed, device),
        },
    }


def _median(run, timed, device: torch.device) -> float:
    for _ in range(3):
        run()
    return statistics.median(timed(run, device) for _ in range(_RUNS))
