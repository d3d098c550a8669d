# SPDX-License-Identifier: Apache-2.0
"""Tests of Triton's kernels are skipped where its interpreter cannot run them, and passed over without Triton."""

from __future__ import annotations

import importlib.util

import numpy
import pytest
import torch

_HAS_TRITON = importlib.util.find_spec("triton") is not None
# What imports the backend of Triton.
_IMPORTING = ["test_backends.py", "decode/test_triton.py", "triton_backend/test_*.py"]
collect_ignore_glob = [] if _HAS_TRITON else _IMPORTING


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    fault = _interpreter_fault()
    if fault is not None:
        for item in items:
            if "triton" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=fault))


def _interpreter_fault() -> str | None:
    if torch.cuda.is_available() or not _HAS_TRITON:
        return None
    import triton

    from hylora_kernels.triton_backend.interpreter import interpreter_fault

    return interpreter_fault(triton.__version__, numpy.__version__)
