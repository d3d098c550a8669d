# SPDX-License-Identifier: Apache-2.0
"""The attentions of this library that are timed, each beside the reference that defines it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from hylora_kernels import shifted_sparse_attention, sliding_window_attention, span_attention

from . import costs

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """What is timed."""

    block_size: int = 32
    top_k: int = 8
    chunk_size: int = 2048
    window: int = 4096
    group: float = 0.25
    head_dim: int = 64
    device: str = "cpu"

    @property
    def span(self) -> dict[str, Any]:
        """What `span_attention` takes, as published."""
        return {name: getattr(self, name) for name in ("block_size", "top_k", "chunk_size")}

    @property
    def recall(self) -> dict[str, Any]:
        """The same where each token chooses: as many retrieved tokens, in blocks of half the size."""
        halved = {"block_size": self.block_size // 2, "top_k": 2 * self.top_k}
        return {**self.span, **halved, "selection": "token", "summary": "mean_std"}


@dataclass(frozen=True)
class Method:
    """An attention that can be timed.

    Attributes:
        label: its name in tables.
        bind: from query, key and value to the function of them that is timed; work done here is not timed.
        expected: the same function by the reference, for inputs in float64.
        pairs: how many pairs of a query and a key a head computes, by length; None where that is not known.
        check_length: the length to check it at, where not every length will do.
        check_heads: query and KV heads to check it with, where not all will do.
        lengths: the lengths to time it at, where those are few.
        missing: why it cannot run here.
    """

    label: str
    bind: Callable[[Tensor, Tensor, Tensor], Attend]
    expected: Attend
    pairs: Callable[[int], float] | None
    check_length: int | None = None
    check_heads: tuple[int, int] | None = None
    lengths: tuple[int, ...] | None = None
    missing: str | None = None


def unbound(attend: Attend) -> Callable[..., Attend]:
    """The `bind` of a function that needs no preparation."""
    return lambda query, key, value: attend


def full_attention(query: Tensor, key: Tensor, value: Tensor, backend: SDPBackend | None = None) -> Tensor:
    """Full causal attention, by one of torch's kernels or by whichever torch chooses."""
    grouped = query.shape[1] != key.shape[1]
    with nullcontext() if backend is None else sdpa_kernel(backend):
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)


def full_reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Full causal attention by the reference: a window over everything."""
    return sliding_window_attention(query, key, value, window=query.shape[2], backend="reference")


def full_method(label: str, attend: Attend, missing: str | None = None) -> Method:
    """Full attention by some kernel."""
    return Method(label, unbound(attend), full_reference, costs.full_pairs, missing=missing)


def own_methods(options: Options, retrieval: str = "relevance", backend: str = "auto") -> dict[str, Method]:
    """Full attention, span-expanded attention, the same without memory, and the rivals.

    "se_recall" is span-expanded attention where each token chooses its blocks.
    """

    def method(label: str, function: Callable, pairs: Callable[[int], float], **arguments) -> Method:
        attend = partial(function, **arguments, backend=backend)
        return Method(label, unbound(attend), partial(function, **arguments, backend="reference"), pairs)

    span = partial(method, function=span_attention, pairs=costs.span_pairs(options), **options.span)
    halved = replace(options, **{name: options.recall[name] for name in ("block_size", "top_k")})
    recall = span("SE-Attn recall", pairs=costs.span_pairs(halved), retrieval=retrieval, **options.recall)
    # The reference goes from token to token, so that few of them retrieve.
    recall = replace(recall, check_length=options.chunk_size + options.chunk_size // 8 + 3)
    return {
        "full": full_method("Full", full_attention),
        "se": span("SE-Attn", retrieval=retrieval),
        "nomem": span("NoMem", pairs=costs.chunk_pairs(options.chunk_size), retrieval="none"),
        "sw": method("SW", sliding_window_attention, costs.window_pairs(options.window), window=options.window),
        "s2": method("S2", shifted_sparse_attention, costs.shifted_pairs(options.group), group=options.group),
        "se_recall": recall,
    }
