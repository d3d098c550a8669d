# SPDX-License-Identifier: Apache-2.0
"""The choice of a backend."""

from __future__ import annotations

import warnings
from functools import lru_cache
from types import ModuleType
from typing import Optional

import torch
from torch import Tensor

from . import flash_backend, reference, torch_backend
from .layout import SequenceLayout
from .options import SpanOptions

NAMES = ("auto", "reference", "torch", "flash", "triton")


def plain_backend(name: str, query: Tensor) -> Optional[ModuleType]:
    """The backend whose operations torch sees one by one, or None where one operator holds them all.

    Whole operators are what `torch.compile` takes, and what runs kernels that torch does not know.
    """
    if name == "reference":
        return reference
    if torch.compiler.is_compiling():
        return None
    return torch_backend if name == "torch" or (name == "auto" and query.device.type == "cpu") else None


def span_backend(name: str, query: Tensor, layout: SequenceLayout, options: SpanOptions) -> ModuleType:
    """The module that computes span-expanded attention of these tensors.

    Raises:
        ValueError: the backend was asked for by name and does not take them.
    """
    if name != "auto":
        return _named(name, query, why_not_triton(query, options) if name == "triton" else None)
    if query.device.type == "cpu":
        return torch_backend
    within_chunks = layout.sequences and all(length <= options.chunk_size for _, _, length in layout.sequences)
    if within_chunks and not flash_backend.unsupported(query):
        return flash_backend  # nothing to retrieve: causal attention, which libraries have
    reason = why_not_triton(query, options)
    if reason is None:
        return _triton()
    module = _library(query)
    _warn_once(f"{reason}; span-expanded attention takes backend={_name_of(module)!r}, which is slower")
    return module


def selecting_backend(name: str, query: Tensor, layout: SequenceLayout, options: SpanOptions) -> ModuleType:
    """The module that chooses blocks for these tensors.

    Raises:
        ValueError: as `span_backend`.
    """
    if name == "reference":
        return reference
    module = span_backend(name, query, layout, options)
    return torch_backend if module is flash_backend else module


def rival_backend(name: str, query: Tensor) -> ModuleType:
    """The module that computes sliding window or shifted sparse attention of these tensors.

    Raises:
        ValueError: the backend was asked for by name and does not take them.
    """
    if name == "auto":
        return torch_backend if query.device.type == "cpu" else _library(query)
    return _named(name, query, "Triton has no kernel for this attention")


def why_not_triton(query: Tensor, options: SpanOptions) -> Optional[str]:
    """Why the Triton kernels cannot compute span-expanded attention of these tensors, or None if they can."""
    try:
        return _triton().unsupported(query, options)
    except ImportError as error:
        return f"triton cannot be imported ({error})"


def _triton() -> ModuleType:
    from . import triton_backend

    return triton_backend


def _named(name: str, query: Tensor, triton_reason: Optional[str]) -> ModuleType:
    if name == "torch":
        return torch_backend
    reason = triton_reason if name == "triton" else flash_backend.unsupported(query)
    if reason is None:
        return _triton() if name == "triton" else flash_backend
    usable = "torch" if name == "flash" else _name_of(_library(query))
    raise ValueError(f"backend={name!r} does not take this input: {reason}; use backend={usable!r} or 'auto'")


def _library(query: Tensor) -> ModuleType:
    """The faster of the backends without kernels of our own."""
    return torch_backend if flash_backend.unsupported(query) else flash_backend


def _name_of(module: ModuleType) -> str:
    return "torch" if module is torch_backend else "flash"


@lru_cache(maxsize=None)
def _warn_once(message: str):
    warnings.warn(message, stacklevel=2)
