# SPDX-License-Identifier: Apache-2.0
"""Everything that is measured on one model: perplexity, recall by distance, retrieval, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import hylora
from hylora.demo.corpus import load_corpus
from hylora.demo.miniature import load_tokenizer
from hylora_eval.demo.settings import RETRIEVALS, SPAN, DemoSettings, Variant
from hylora_eval.perplexity import perplexity
from hylora_eval.recall import RecallSequence, draw_recall_sequences, recall_by_distance
from hylora_eval.retrieval import retrieval_hit_rate

__all__ = ["EvaluationData", "activation_memory", "measure"]

# Long documents would otherwise outweigh all others.
WINDOWS_PER_DOCUMENT = 2


@dataclass(frozen=True)
class EvaluationData:
    """What every model is measured on.

    Attributes:
        text: held-out documents, cut to multiples of the longest context, so that every context size is measured on
            the same tokens.
        recall: for each document length, documents of the recall task.
    """

    text: list[Tensor]
    recall: dict[int, list[RecallSequence]]

    @classmethod
    def build(cls, settings: DemoSettings) -> EvaluationData:
        """Cut held-out text and draw recall documents; the same for all variants and seeds."""
        tokenizer = load_tokenizer()
        longest = settings.lengths[-1]
        text = []
        for document in load_corpus("held_out"):
            tokens = torch.tensor(tokenizer(document.text, verbose=False)["input_ids"])
            windows = min(len(tokens) // longest, WINDOWS_PER_DOCUMENT)
            text += [tokens[: windows * longest]] if windows else []
        recall = {
            length: draw_recall_sequences(tokenizer, length - 1, settings.recall_documents)
            for length in (settings.tuned_length, longest)
        }
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
        Plain JSON types: "perplexity" and "recall", each under "full" and "own", and "retrieval" by
        way to choose.
    """
    result: dict[str, Any] = {"perplexity": {}, "recall": {}, "retrieval": {}}
    ways = {"full": ("full", {}), "own": (variant.attention, variant.options)}
    if variant.attention == "full":
        del ways["own"]
    for way, (name, options) in ways.items():
        progress(f"evaluating with {way} attention")
        hylora.set_attention(model, name, **options)
        result["perplexity"][way] = {
            length: perplexity(model, data.text, length, batch_size=4096 // length).to_dict()
            for length in settings.lengths
        }
        result["recall"][way] = {
            length: recall_by_distance(model, sequences, (0, *settings.distances), batch_size=16).to_dict()
            for length, sequences in data.recall.items()
        }
    if "own" not in ways:
        for figures in (result["perplexity"], result["recall"]):
            figures["own"] = figures["full"]
    progress("measuring retrieval")
    for rule, options in RETRIEVALS.items():
        hylora.set_attention(model, "se_attn", **SPAN, **options)
        result["retrieval"][rule] = retrieval_hit_rate(model, data.recall[settings.tuned_length]).to_dict()
    return result


def activation_memory(model: nn.Module, length: int) -> int:
    """Bytes that one training sequence keeps for the backward pass, parameters aside.

    Counted through autograd, because the memory of a process says little about a model this small.

    Args:
        model: the model, trainable, with its attention set.
        length: tokens of the sequence.
    """
    kept: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    tokens = torch.zeros(1, length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The graph must stay alive while it is counted, or freed storages would be counted again.
        output = model.get_base_model().model(input_ids=tokens, use_cache=False).last_hidden_state
    del output
    return sum(kept.values())
