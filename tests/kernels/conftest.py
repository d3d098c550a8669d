# SPDX-License-Identifier: Apache-2.0
"""Tests of Triton's kernels are skipped where its interpreter cannot run them."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

from hylora_kernels.triton_backend.interpreter import interpreter_fault


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    fault = None if torch.cuda.is_available() else interpreter_fault(version("triton"), version("numpy"))
    if fault is not None:
        for item in items:
            if "triton" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=fault))
