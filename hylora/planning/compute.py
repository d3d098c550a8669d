# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a training step, per token and by part."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from hylora.adapters.structure import base_model, find_groups, unwrapped
from hylora.attention import SpanConfig
from hylora.language.recipe import AttentionRecipe
from hylora.planning.operations import attention_operations
from hylora_kernels.options import summary_width

__all__ = ["PHASES", "ComputeEstimate", "estimate_compute"]

PHASES = ("forward", "recomputation", "backward")


@dataclass(frozen=True)
class ComputeEstimate:
    """Operations per token.

    Args:
        parts: by part and phase; "backward" as a part is the backward pass of everything but the attention method.
        full_forward: of full attention, forward, in place of the method.
        full_step: of full attention in a step, forward, recomputed and backward.
    """

    parts: dict[str, dict[str, float]]
    full_forward: float
    full_step: float

    def of_phase(self, phase: str) -> float:
        """Operations of all parts in a phase."""
        return sum(phases.get(phase, 0.0) for phases in self.parts.values())

    @property
    def step(self) -> float:
        """Operations of all parts and phases."""
        return sum(self.of_phase(phase) for phase in PHASES)

    @property
    def full_over_method(self) -> float:
        """How many times the method's operations full attention takes, forward."""
        return self.full_forward / self.parts["attention method"]["forward"]

    @property
    def step_with_full_over_step(self) -> float:
        """How many times the operations of a step it takes with full attention."""
        method = sum(self.parts["attention method"].values())
        return (self.step - method + self.full_step) / self.step


def estimate_compute(
    operations: Counter[tuple[str, str]], model: nn.Module, attention: AttentionRecipe, length: int, sequences: int
) -> ComputeEstimate:
    """Operations per token, from those of a simulated micro-batch.

    Args:
        operations: by part and phase.
        model: that was simulated.
        attention: the recipe's.
        length: tokens per sequence.
        sequences: in the micro-batch.
    """
    tokens = length * sequences
    totals: Counter[tuple[str, str]] = Counter(operations)
    recomputed = any(phase == "recomputation" for _, phase in operations)
    widths = _attention_widths(model)
    if attention.name == "se_attn":
        choosing = sequences * sum(_selection_operations(attention.span, *sizes, length) for sizes in widths)
        totals["attention method", "forward"] += choosing
        totals["attention method", "recomputation"] += choosing * recomputed
    parts: dict[str, dict[str, float]] = {}
    for (part, phase), number in totals.items():
        if number:
            parts.setdefault(part, {})[phase] = number / tokens
    full = sum(attention_operations(queries, length) for queries, _ in widths) / length
    # Two products forward, five backward.
    return ComputeEstimate(parts, full, full * (1 + recomputed + 2.5))


def _attention_widths(model: nn.Module) -> list[tuple[int, int]]:
    """Widths of the queries and of the keys, heads times head dimension, of every softmax attention."""
    base = base_model(model)
    modules = {name.rpartition(".")[0]: None for name in find_groups(base)["attention"]}
    widths = []
    for name in modules:
        module = base.get_submodule(name)
        # The last projection takes the heads' outputs; queries may be wider, where they bring a gate.
        *_, output = (child for child in map(unwrapped, module.children()) if isinstance(child, nn.Linear))
        widths.append((output.in_features, output.in_features // getattr(module, "num_key_value_groups", 1)))
    return widths


def _selection_operations(span: SpanConfig, queries: int, keys: int, length: int) -> int:
    """Operations of summaries and scores; the simulation retrieves at random instead."""
    if span.retrieval != "relevance" or not span.retrieves or length <= max(span.chunk_sizes):
        return 0
    options = span.with_chunks_of(max(span.chunk_sizes))
    widths = summary_width(options, keys)
    scored = length if options.pools_scores else length // options.unit_size
    if options.summary == "representatives":
        scored *= queries // keys  # not linear: every head has scores of its own
    weights = {"attention": 2 * queries * span.block_size, "landmark": 2 * keys}.get(span.summary, 0)
    return 2 * widths * scored * (length // span.block_size) // 2 + length * weights
