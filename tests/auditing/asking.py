# SPDX-License-Identifier: Apache-2.0
"""Ask some questions alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from hylora import audit
from hylora.auditing.answers import Audit
from hylora.auditing.questions import QUESTIONS

__all__ = ["ask"]


def ask(model: nn.Module, *names: str, **arguments: Any) -> Audit:
    """The audit of a model in which all other questions are left out."""
    return audit(model, skip=QUESTIONS.keys() - set(names), **arguments)
