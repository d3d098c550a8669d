# SPDX-License-Identifier: Apache-2.0
"""Where there is no GPU, Triton's kernels run in its interpreter."""

from __future__ import annotations

import os

import torch

# Triton reads this when it is imported, which is after this file.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
