# SPDX-License-Identifier: Apache-2.0
"""Everything that is measured on one model: recall, perplexity, generation, retrieval."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import hylora
from hylora.demo.corpus import load_corpus
from hylora.demo.facts import FactTask
from hylora.demo.miniature import load_tokenizer
from hylora_eval.demo.generation import recall_by_steps
from hylora_eval.demo.settings import RETRIEVALS, DemoSettings, Variant
from hylora_eval.perplexity import perplexity
from hylora_eval.recall import RecallSequence, draw_recall_sequences, recall_by_distance, tokenize_recall
from hylora_eval.retrieval import retrieval_hit_rate

__all__ = ["EvaluationData", "measure"]

# Long documents would otherwise outweigh all others.
WINDOWS_PER_DOCUMENT = 2


@dataclass(frozen=True)
class EvaluationData:
    """What every model is measured on.

    Attributes:
        text: held-out documents, cut to multiples of the longest context, so that every context size is measured on
            the same tokens.
        recall: documents of each recall task; the sparse ones in held-out text.
    """

    text: list[Tensor]
    recall: dict[str, list[RecallSequence]]

    @classmethod
    def build(cls, settings: DemoSettings) -> EvaluationData:
        """Cut held-out text and draw recall documents; the same for all variants and seeds."""
        tokenizer = load_tokenizer()
        longest = settings.lengths[-1]
        held_out = load_corpus("held_out")
        text = []
        for document in held_out:
            tokens = torch.tensor(tokenizer(document.text, verbose=False)["input_ids"])
            windows = min(len(tokens) // longest, WINDOWS_PER_DOCUMENT)
            text += [tokens[: windows * longest]] if windows else []
        recall = {
            task: draw_recall_sequences(tokenizer, length - 1, settings.recall_documents)
            for task, length in settings.dense_tasks.items()
        }
        facts = FactTask(tokenizer, held_out)
        for task, options in settings.sparse_tasks.items():
            names = (f"evaluate-{number}" for number in range(settings.recall_documents))
            recall[task] = tokenize_recall(tokenizer, (facts.document(seed=name, **options) for name in names))
        return cls(text[: settings.text_documents], recall)


def measure(
    model: nn.Module,
    variant: Variant,
    data: EvaluationData,
    settings: DemoSettings,
    progress: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """Measure a model with full attention and with its own.

    Args:
        model: the model; its attention is changed.
        variant: which names the model's own attention.
        data: to measure on.
        settings: of the demo.
        progress: told what comes next.

    Returns:
        Plain JSON types: "perplexity" and "recall", each under "full" and "own"; "retrieval" by way to choose and
        task; and "generation", for models that have a cache for their own attention.
    """
    result: dict[str, Any] = {"perplexity": {}, "recall": {}}
    ways = {"full": ("full", [{}]), "own": (variant.attention, variant.evaluations())}
    if variant.attention == "full":
        del ways["own"]
    for way, (name, evaluations) in ways.items():
        progress(f"evaluating with {way} attention")
        perplexities, recalls = [], []
        for options in evaluations:
            hylora.set_attention(model, name, **options)
            perplexities.append(
                {
                    str(length): perplexity(model, data.text, length, batch_size=4096 // length).to_dict()
                    for length in settings.lengths
                }
            )
            recalls.append(
                {
                    task: recall_by_distance(model, sequences, (0, *settings.distances), batch_size=16).to_dict()
                    for task, sequences in data.recall.items()
                }
            )
        result["perplexity"][way], result["recall"][way] = mean_of(perplexities), mean_of(recalls)
    for figures in (result["perplexity"], result["recall"]):
        figures.setdefault("own", figures["full"])
    if variant.generates:
        progress("generating")
        hylora.set_attention(model, variant.attention, **variant.options)
        half, sequences = settings.tuned_length // 2, data.recall[f"end {settings.tuned_length}"]
        result["generation"] = recall_by_steps(model, sequences, prefill=half)
    progress("measuring retrieval")
    result["retrieval"] = {}
    for rule, options in RETRIEVALS.items():
        hylora.set_attention(model, "se_attn", **options)
        result["retrieval"][rule] = {
            task: retrieval_hit_rate(model, data.recall[task]).to_dict() for task in settings.retrieval_tasks
        }
    return result


def mean_of(trees: list[Any]) -> Any:
    """The mean of equal trees of plain JSON types: numbers are averaged, all else is that of the first."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: mean_of([tree[name] for tree in trees]) for name in first}
    if isinstance(first, list):
        return [mean_of(list(parts)) for parts in zip(*trees, strict=True)]
    return statistics.fmean(trees) if isinstance(first, float) else first
