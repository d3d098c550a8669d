# SPDX-License-Identifier: Apache-2.0
"""What the demo compares, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hylora.demo.miniature import CONTEXT
from hylora_eval.results import PlainJson

__all__ = ["CHUNK", "MIXTURE", "NOT_TUNED", "RETRIEVALS", "VARIANTS", "DemoSettings", "Variant"]

# Tokens of a chunk in evaluation: what lies further back than that must be retrieved.
CHUNK = CONTEXT
# M, S and k of the thesis (2048 or 4096, 32, 8 at 8192 tokens) scaled to 256 tokens, and the recall preset (S = 16,
# k = 16) likewise: both read 32 retrieved tokens.
PUBLISHED: dict[str, Any] = {"preset": "published", "chunk_size": (CHUNK // 2, CHUNK), "block_size": 8, "top_k": 4}
RECALL: dict[str, Any] = {**PUBLISHED, "preset": "recall", "block_size": 4, "top_k": 8}
MIN_MAX: dict[str, Any] = {**RECALL, "summary": "min_max"}
# Ways to choose blocks whose hit rate is measured on every model, however it was tuned.
RETRIEVALS: dict[str, dict[str, Any]] = {"published": PUBLISHED, "recall": RECALL, "min_max": MIN_MAX}
# Shares of the fine-tuning rows: dense recall, text with facts in it, text.
MIXTURE = {"recall": 0.25, "facts": 0.6, "text": 0.15}


@dataclass(frozen=True)
class Variant:
    """A model of the comparison.

    Attributes:
        name: of its folder.
        label: in tables, short enough for a terminal.
        attention: hylora's name of the attention it is trained with, its "own".
        options: fields of `SpanConfig`.
        draws: evaluations with its own attention, each with another `seed`, whose mean counts. One seed decides all
            random blocks, and moves recall by several points.
    """

    name: str
    label: str
    attention: str
    options: dict[str, Any]
    draws: int = 1

    @property
    def generates(self) -> bool:
        """Whether its own attention can be had in generation, with a cache."""
        return self.attention in ("full", "se_attn")

    def evaluations(self) -> list[dict[str, Any]]:
        """Options of each evaluation with its own attention."""
        return [{**self.options, "seed": seed} for seed in range(self.draws)] if self.draws > 1 else [self.options]


NOT_TUNED = Variant("none", "not fine-tuned", "full", {})
VARIANTS = (
    Variant("full", "Full", "full", {}),
    Variant("recall", "SE-Attn, recall", "se_attn", RECALL),
    Variant("min_max", "SE-Attn, min_max", "se_attn", MIN_MAX),
    Variant("published", "SE-Attn, published", "se_attn", PUBLISHED),
    Variant("random", "SE-Attn, random", "se_attn", {**PUBLISHED, "retrieval": "random"}, draws=5),
    Variant("s2", "S2", "s2_attn", {"group": 0.25}),
    Variant("sw", "SW", "sw_attn", {"window": CHUNK}),
)


@dataclass(frozen=True)
class DemoSettings(PlainJson):
    """Size of a demo.

    Attributes:
        seeds: fine-tuning runs of each variant, seeds 0, 1, ...
        steps: updates of a run.
        batch: sequences per update.
        text_documents: at most so many held-out documents for perplexity.
        recall_documents: documents of each recall task.
        lr: learning rate of HyLoRA.
        r: its rank; alpha is twice that.
    """

    seeds: int = 2
    steps: int = 80
    batch: int = 16
    text_documents: int = 40
    recall_documents: int = 64
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

    @property
    def dense_tasks(self) -> dict[str, int]:
        """Tokens of a document in each task of rows of facts."""
        return {f"dense {length}": length for length in self.lengths[-2:]}

    @property
    def sparse_tasks(self) -> dict[str, dict[str, Any]]:
        """Options of `FactTask.document` in each task of facts in text: a fact in every 21 tokens, four of them asked
        from beyond the chunk."""
        common = {"asked": 4, "distance": CHUNK}
        tuned, longest = self.lengths[-2:]
        return {
            f"sparse {tuned}": {"tokens": tuned - 1, "facts": 12, **common},
            f"end {tuned}": {"tokens": tuned - 1, "facts": 12, "where": "end", **common},
            f"end {longest}": {"tokens": longest - 1, "facts": 24, "where": "end", **common},
        }

    @property
    def retrieval_tasks(self) -> tuple[str, str]:
        """Tasks whose hit rates are measured: a dense and a sparse one at the fine-tuning length."""
        return f"dense {self.tuned_length}", f"sparse {self.tuned_length}"
