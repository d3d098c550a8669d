# SPDX-License-Identifier: Apache-2.0
"""What runs came to, and whether it is the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hylora.training.reporting import read_metrics

__all__ = ["assert_same", "records_of"]


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    """The same tensors under the same names, bit for bit."""
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def records_of(folder: Path) -> list[dict[str, Any]]:
    """What a run recorded, without what time and memory it took."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in ("seconds", "memory")} for record in records]
