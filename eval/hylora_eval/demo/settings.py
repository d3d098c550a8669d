# SPDX-License-Identifier: Apache-2.0
"""What the demo compares, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hylora.demo.miniature import CONTEXT
from hylora_eval.results import PlainJson

__all__ = ["NOT_TUNED", "RETRIEVALS", "SPAN", "VARIANTS", "DemoSettings", "Variant"]

# M, S and k of the thesis (2048 or 4096, 32, 8 at 8192 tokens) scaled to 256 tokens.
SPAN: dict[str, Any] = {"block_size": 8, "top_k": 4, "chunk_size": (32, 64)}
# A choice for each token by its own query, instead of one for a chunk by the sum of its queries.
PER_TOKEN: dict[str, Any] = {"selection": "causal", "query_group": 1}
# Ways to choose blocks whose hit rate is measured on every model, however it was tuned.
RETRIEVALS: dict[str, dict[str, Any]] = {
    "published": {"summary": "attention"},
    "published/token": {"summary": "attention", **PER_TOKEN},
    "mean key": {"summary": "mean_key"},
    "mean key/token": {"summary": "mean_key", **PER_TOKEN},
}


@dataclass(frozen=True)
class Variant:
    """A model of the comparison.

    Attributes:
        name: of its folder.
        label: in tables, short enough for a terminal.
        attention: hylora's name of the attention it is trained with, its "own".
        options: fields of `SpanConfig`.
    """

    name: str
    label: str
    attention: str
    options: dict[str, Any]


NOT_TUNED = Variant("none", "not fine-tuned", "full", {})
VARIANTS = (
    Variant("full", "Full", "full", {}),
    Variant("sw", "SW", "sw_attn", {"window": 64}),
    Variant("s2", "S2", "s2_attn", {"group": 0.25}),
    Variant("se", "SE-Attn, published", "se_attn", {**SPAN, **RETRIEVALS["published"]}),
    Variant("se_mean_key", "SE-Attn, mean key", "se_attn", {**SPAN, **RETRIEVALS["mean key"]}),
    Variant("se_token", "SE-Attn, mean key/token", "se_attn", {**SPAN, **RETRIEVALS["mean key/token"]}),
    Variant("se_random", "SE-Attn, random", "se_attn", {**SPAN, "retrieval": "random"}),
)


@dataclass(frozen=True)
class DemoSettings(PlainJson):
    """Size of a demo.

    Attributes:
        seeds: fine-tuning runs of each variant, seeds 0, 1, ...
        steps: updates of a run.
        batch: sequences per update.
        text_documents: at most so many held-out documents for perplexity.
        recall_documents: recall documents, at the fine-tuning length and at the longest.
        lr: learning rate of HyLoRA.
        r: its rank; alpha is twice that.
    """

    seeds: int = 2
    steps: int = 80
    batch: int = 16
    text_documents: int = 40
    recall_documents: int = 48
    lr: float = 1e-3
    r: int = 8

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "batch", "text_documents", "recall_documents", "r"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @classmethod
    def quick(cls) -> DemoSettings:
        """Enough to see every part run; its figures mean nothing."""
        return cls(seeds=1, steps=3, batch=4, text_documents=2, recall_documents=2)

    @property
    def tuned_length(self) -> int:
        """Tokens of a sequence in fine-tuning: four times the checkpoint's context."""
        return 4 * CONTEXT

    @property
    def lengths(self) -> tuple[int, ...]:
        """Context sizes of the evaluation, once to eight times the checkpoint's."""
        return tuple(CONTEXT * factor for factor in (1, 2, 4, 8))

    @property
    def distances(self) -> tuple[int, ...]:
        """Ends (exclusive) of the bins of distance."""
        return tuple(CONTEXT // 2 * factor for factor in (1, 2, 4, 8, 16))
