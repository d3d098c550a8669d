# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter, in which the kernels run on a CPU: for tests."""

from __future__ import annotations

from importlib.metadata import version
from typing import Optional, Tuple

import triton


def why_not_interpreted() -> Optional[str]:
    """Why kernels cannot run on a CPU, or None if they can."""
    if not triton.knobs.runtime.interpret:
        return "query is on the CPU, where Triton has its interpreter alone (TRITON_INTERPRET=1)"
    return interpreter_fault(triton.__version__, version("numpy"))


def interpreter_fault(of_triton: str, of_numpy: str) -> Optional[str]:
    """Why the interpreter of one version does not run with NumPy of another, or None if it does.

    It takes arrays of one number for numbers, which NumPy has refused since 2.4.
    """
    if _release(of_triton) < (3, 7) and _release(of_numpy) >= (2, 4):
        return (
            f"the interpreter of Triton {of_triton} fails with NumPy {of_numpy}; install triton>=3.7 or numpy<2.4, or "
            "run on a GPU, where it is not needed"
        )
    return None


def _release(name: str) -> Tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(map(int, name.split(".")[:2]))
