# SPDX-License-Identifier: Apache-2.0
"""Whether a model that reads token by token, as in generation, recalls what it does in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

import hylora
from hylora.training.evaluation import evaluation_mode
from hylora_eval.recall import RecallSequence

__all__ = ["recall_by_steps"]


@torch.no_grad()
def recall_by_steps(model: nn.Module, sequences: Sequence[RecallSequence], prefill: int) -> dict[str, Any]:
    """Recall where the last part of a sequence is read in steps of one token with a cache.

    Sparse attention keeps a `SpanCache` and chooses blocks at every step; full attention keeps all keys and values.

    Args:
        model: the miniature, fine-tuned or not, with its attention set.
        sequences: of one length.
        prefill: tokens read at once, before the first step.

    Returns:
        Plain JSON types: "steps" and "pass", the share of answers that were the most likely token of a step and of a
        whole forward pass, "agreement", the share for which both were the same, and "answers", their number. Answers
        within `prefill` count nowhere.
    """
    tokens = torch.stack([sequence.input_ids for sequence in sequences])
    sparse = model.config._attn_implementation == "se_attn"
    with evaluation_mode(model), hylora.bound_time_steps(model):
        cache = hylora.SpanCache(model.config) if sparse else DynamicCache(config=model.config)
        places = torch.arange(tokens.shape[1])
        # As in `generate`, steps say where they are: the first layer holds a state alone and does not know.
        guesses = [
            model(input_ids=tokens[:, part], position_ids=part[None], past_key_values=cache, use_cache=True)
            .logits[:, -1]
            .argmax(-1)
            for part in (places[:prefill], *places[prefill:].split(1))
        ]
        stepwise = torch.stack(guesses, dim=1)
        whole = model(input_ids=tokens, use_cache=False).logits[:, prefill - 1 :].argmax(-1)

    right, right_whole, same = [], [], []
    for row, sequence in enumerate(sequences):
        answers = sequence.answers[sequence.answers >= prefill]
        # The guess after `prefill` tokens is the first.
        by_steps, at_once = stepwise[row, answers - prefill], whole[row, answers - prefill]
        right.append(by_steps == sequence.input_ids[answers])
        right_whole.append(at_once == sequence.input_ids[answers])
        same.append(by_steps == at_once)

    def share(parts: list[Tensor]) -> float:
        return float(torch.cat(parts).double().mean())

    return {
        "steps": share(right),
        "pass": share(right_whole),
        "agreement": share(same),
        "answers": sum(map(len, right)),
    }
