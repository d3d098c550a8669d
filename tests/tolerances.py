# SPDX-License-Identifier: Apache-2.0
"""How close two computations of the same function must be, by dtype: absolute error on values of order one."""

from __future__ import annotations

import torch

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """Compare under the tolerance of `dtype` (by default the dtype of `actual`)."""
    tolerance = TOLERANCE[dtype or actual.dtype]
    torch.testing.assert_close(actual.to(expected.dtype), expected, atol=tolerance, rtol=tolerance)
