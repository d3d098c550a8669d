# SPDX-License-Identifier: Apache-2.0
"""Launches that are worth trying on a GPU with as much shared memory as an H100, by kernel; none was measured yet."""

from __future__ import annotations

from hylora_kernels.triton_backend.launch import Launch

# Of the kernels that take most of the time, at a head dimension of 128 in half precision.
CANDIDATES = {
    "forward": (Launch(128, 128, 8, 3), Launch(128, 64, 8, 4), Launch(64, 64, 4, 3), Launch(128, 128, 8, 2)),
    "backward_query": (Launch(128, 64, 8, 2), Launch(128, 128, 8, 2), Launch(64, 64, 4, 3)),
    "backward_own": (Launch(64, 128, 8, 2), Launch(128, 64, 8, 2), Launch(64, 64, 4, 2)),
    "backward_retrieved": (Launch(64, 32, 4, 3), Launch(64, 32, 4, 2), Launch(128, 32, 4, 2)),
}
