# SPDX-License-Identifier: Apache-2.0
"""What has to be set before libraries are imported, which is after this file."""

from __future__ import annotations

import os

# Nothing here needs the hub; without this, some libraries ask it and wait for an answer.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

# Where there is no GPU, Triton's kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
