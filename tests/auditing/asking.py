# SPDX-License-Identifier: Apache-2.0
"""Ask some questions alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from hylora import audit
from hylora.auditing.answers import Audit

__all__ = ["ask"]


def ask(model: nn.Module, *names: str, **arguments: Any) -> Audit:
    """The audit of a model with these questions alone."""
    return audit(model, ask=names, **arguments)
