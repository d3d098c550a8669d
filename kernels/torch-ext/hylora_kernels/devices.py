# SPDX-License-Identifier: Apache-2.0
"""Which GPUs kernels are for: Triton's of this package, and torch's flash attention as it is called here."""

from __future__ import annotations

from typing import Optional, Tuple

import torch


def why_no_kernels(hip: Optional[str], capability: Tuple[int, int]) -> Optional[str]:
    """Why a GPU takes no kernels, but operations of torch, which run everywhere.

    Args:
        hip: the version of ROCm that torch was built for, as `torch.version.hip` has it; None means CUDA.
        capability: what torch says of the GPU; on AMD's, two numbers of another meaning.

    Returns:
        The cause, or None if it takes them.
    """
    if hip is not None:
        return f"torch is built for ROCm {hip}, and the kernels are for NVIDIA's GPUs"
    if capability < (8, 0):
        return f"the device has compute capability {capability}, and the kernels need (8, 0)"
    return None


def device_without_kernels(device: torch.device) -> Optional[str]:
    """`why_no_kernels` of a device that torch calls "cuda"."""
    return why_no_kernels(torch.version.hip, torch.cuda.get_device_capability(device))
