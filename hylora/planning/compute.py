# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a training step, per token and by part, and what attention's are at other contexts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from torch import nn

from hylora.adapters.structure import base_model, find_groups, unwrapped
from hylora.architecture import windowed_layers
from hylora.attention import SpanConfig
from hylora.language.recipe import AttentionRecipe
from hylora.planning.operations import attention_operations
from hylora_kernels.options import summary_width

__all__ = ["PHASES", "AttentionCost", "ComputeEstimate", "estimate_compute"]

PHASES = ("forward", "recomputation", "backward")
# Products backward, for each of the two forward.
_BACKWARD = 2.5
# Tokens beyond which nobody looks.
_LONGEST = 1 << 24


@dataclass(frozen=True)
class AttentionCost:
    """What attention takes of a step, at any context: all else takes as much per token at every context.

    Args:
        name: the method that full attention is compared with.
        span: its options.
        widths: of the queries and of the keys, heads times head dimension, in every layer with softmax attention that
            a method replaces.
        windows: width of the queries and tokens of the window, in every layer with a window of its own.
        recomputed: whether activations are made again in the backward pass.
        rest: operations of everything else in a step, per token.
    """

    name: str
    span: SpanConfig
    widths: tuple[tuple[int, int], ...]
    windows: tuple[tuple[int, int], ...]
    recomputed: bool
    rest: float

    def full_forward(self, length: int) -> float:
        """Operations per token of full attention, forward."""
        return self._products("full", length)

    def full_step(self, length: int) -> float:
        """Operations per token of full attention in a step."""
        return self._products("full", length) * self._passes

    def method_step(self, length: int) -> float:
        """Operations per token of the method in a step."""
        return self._products(self.name, length) * self._passes + self.choosing(length) * (1 + self.recomputed)

    def choosing(self, length: int) -> float:
        """Operations per token of summaries and scores, forward."""
        if self.name != "se_attn":
            return 0.0
        return sum(_selection_operations(self.span, *sizes, length) for sizes in self.widths) / length

    def share(self, length: int) -> float:
        """What full attention takes of a step with it, from 0 to 1."""
        return self.full_step(length) / (self.rest + self.full_step(length))

    def saving(self, length: int) -> float:
        """How many times the operations of a step with the method one with full attention takes."""
        return (self.rest + self.full_step(length)) / (self.rest + self.method_step(length))

    def context_of(self, saving: float) -> int | None:
        """The context from which on a step with full attention takes so many times the operations, in tokens.

        Returns:
            To within 1 %; None where no context of up to 16 million tokens does.
        """
        below, above = 1, _LONGEST
        if self.saving(above) < saving:
            return None
        while above - below > max(1, above // 100):
            middle = (below + above) // 2
            below, above = (below, middle) if self.saving(middle) >= saving else (middle, above)
        return above

    @property
    def _passes(self) -> float:
        return 1 + self.recomputed + _BACKWARD

    def _products(self, name: str, length: int) -> float:
        replaced = sum(attention_operations(queries, length, name, self.span) for queries, _ in self.widths)
        # Whatever the method, these keep their windows.
        spans = ((queries, replace(self.span, window=window)) for queries, window in self.windows)
        kept = sum(attention_operations(queries, length, "sw_attn", span) for queries, span in spans)
        return (replaced + kept) / length


@dataclass(frozen=True)
class ComputeEstimate:
    """Operations per token.

    Args:
        parts: by part and phase; "backward" as a part is the backward pass of everything but the attention method.
        attention: what attention takes at other contexts.
        length: tokens of the context.
    """

    parts: dict[str, dict[str, float]]
    attention: AttentionCost
    length: int

    def of_phase(self, phase: str) -> float:
        """Operations of all parts in a phase."""
        return sum(phases.get(phase, 0.0) for phases in self.parts.values())

    @property
    def step(self) -> float:
        """Operations of all parts and phases."""
        return sum(self.of_phase(phase) for phase in PHASES)

    @property
    def full_forward(self) -> float:
        """Operations of full attention, forward, in place of the method."""
        return self.attention.full_forward(self.length)

    @property
    def full_over_method(self) -> float:
        """How many times the method's operations full attention takes, forward; 1 for a model without attention."""
        method = self.parts.get("attention method", {}).get("forward", 0.0)
        return self.full_forward / method if method else 1.0

    @property
    def step_with_full_over_step(self) -> float:
        """How many times the operations of a step it takes with full attention."""
        return (self.attention.rest + self.attention.full_step(self.length)) / self.step


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
    totals = Counter(operations)
    recomputed = any(phase == "recomputation" for _, phase in operations)
    widths, windows = _attention_widths(model)
    if base_model(model).config._attn_implementation == "eager":
        # Its products, of all pairs of tokens, are no operators by which to know them.
        products = 4 * length * tokens * sum(queries for queries, _ in (*widths, *windows))
        for part, phase, times in (
            ("attention", "forward", 1),
            ("attention", "recomputation", recomputed),
            ("backward", "backward", 2),
        ):
            totals[part, phase] -= times * products
            totals["attention method", phase] += times * products
    rest = sum(number for (part, _), number in totals.items() if part != "attention method") / tokens
    # Whoever plans full attention asks what SE-Attn would bring.
    method = "se_attn" if attention.name == "full" else attention.name
    cost = AttentionCost(method, attention.span, widths, windows, recomputed, rest)
    if attention.name == "se_attn":
        totals["attention method", "forward"] += cost.choosing(length) * tokens
        totals["attention method", "recomputation"] += cost.choosing(length) * tokens * recomputed
    parts: dict[str, dict[str, float]] = {}
    for (part, phase), number in totals.items():
        if number:
            parts.setdefault(part, {})[phase] = number / tokens
    return ComputeEstimate(parts, cost, length)


def _attention_widths(model: nn.Module) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Of every softmax attention: widths of queries and keys, or width of queries and tokens of its own window."""
    base = base_model(model)
    config = base.config.get_text_config()
    windowed = windowed_layers(config)
    modules = {name.rpartition(".")[0]: None for name in find_groups(base)["attention"]}
    widths, windows = [], []
    for name in modules:
        module = base.get_submodule(name)
        # The last projection takes the heads' outputs; queries may be wider, where they bring a gate.
        *_, output = (child for child in map(unwrapped, module.children()) if isinstance(child, nn.Linear))
        queries = output.in_features
        if hasattr(module, "qk_head_dim"):  # values are smaller, and get as wide
            queries = module.num_heads * module.qk_head_dim
        if getattr(module, "layer_idx", None) in windowed:
            windows.append((queries, config.sliding_window))
        else:
            widths.append((queries, queries // getattr(module, "num_key_value_groups", 1)))
    return tuple(widths), tuple(windows)


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
