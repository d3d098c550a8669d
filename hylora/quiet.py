# SPDX-License-Identifier: Apache-2.0
"""Warnings of other libraries that mean nothing to whoever uses this one: each by its words, and for a reason."""

from __future__ import annotations

import logging
import sys
import warnings

__all__ = ["quieten"]


def quieten() -> None:
    """Silence them; nothing is imported for it."""
    # PEFT asks transformers for an attribute under its old name, whenever an adapter is put around a model.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    logging.getLogger("transformers.integrations.hub_kernels").addFilter(_concerns_a_gpu)


def _concerns_a_gpu(record: logging.LogRecord) -> bool:
    """Without a GPU, transformers advises to install kernels of Mamba and convolutions that run on GPUs alone."""
    if "is falling back to its reference PyTorch implementation" not in record.getMessage():
        return True
    torch = sys.modules.get("torch")
    return torch is None or torch.cuda.is_available()
