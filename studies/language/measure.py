# SPDX-License-Identifier: Apache-2.0
"""What is measured on a model: perplexity, facts found in text, RULER's needles, each by length."""

from __future__ import annotations

from functools import cached_property
from itertools import product
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

import hylora
from hylora.demo.corpus import load_corpus
from hylora.demo.facts import FactTask
from hylora.training.evaluation import evaluation_mode
from hylora_eval.demo.generation import recall_by_steps
from hylora_eval.perplexity import perplexity
from hylora_eval.recall import RecallSequence, recall_by_distance, tokenize_recall
from hylora_eval.ruler import Haystack, generate

__all__ = ["Material"]

# One, four, eight and sixteen times the context of pre-training; fine-tuning is at 1024.
TUNED = 1024
LENGTHS, OWN_LENGTHS = (256, 1024, 2048, 4096), (1024, 4096)
# Tokens between a fact and its question, at least: more than any chunk, so that it must be retrieved.
AWAY = 256
# Tokens of text that are read at each length; of each document, so that long ones do not outweigh others.
DOCUMENTS, TOKENS = 6, 4096
# Documents with facts, a fact for every 32 tokens and eight of them asked for.
FACT_LENGTHS, FACTS_EACH, ASKED = (1024, 2048, 4096), 12, 8
# RULER keeps 128 tokens of a length free for the answer. All but the third task are those of training.
RULER_LENGTHS, SAMPLES = (512, 1024, 2048), 12
TASKS = ("niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multikey_2")


class Material:
    """What models are measured on.

    Args:
        tokenizer: of the models.
        seed: of facts and prompts; documents of text are the same for all seeds.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._held_out = load_corpus("held_out")

    @cached_property
    def _text(self) -> list[Tensor]:
        documents = (self._ids(document.text) for document in self._held_out)
        return [ids[:TOKENS] for ids in documents if len(ids) >= TOKENS][:DOCUMENTS]

    @cached_property
    def _facts(self) -> dict[int, list[RecallSequence]]:
        task = FactTask(self._tokenizer, self._held_out)
        return {length: self._hidden(task, length, "anywhere") for length in FACT_LENGTHS}

    @cached_property
    def _steps(self) -> list[RecallSequence]:
        return self._hidden(FactTask(self._tokenizer, self._held_out), TUNED, "end")

    def _hidden(self, task: FactTask, length: int, where: str) -> list[RecallSequence]:
        names = (f"study-{self._seed}-{index}" for index in range(FACTS_EACH))
        documents = (task.document(length, name, length // 32, ASKED, where, AWAY) for name in names)
        return tokenize_recall(self._tokenizer, documents)

    def measure(self, model: nn.Module, own: tuple[str, dict[str, Any]] | None) -> dict[str, Any]:
        """Measure a model with full attention, and with its own.

        Args:
            model: its attention is changed.
            own: name and options of the attention it was tuned with, None to leave that out.

        Returns:
            Plain JSON types, by way ("full", "own"), kind and length: "nll" in nats; in per cent "facts", those that
            are recalled, "ruler", the tokens of RULER's answers that are the most likely given those before them, by
            task, and "ruler exact", the answers of which all tokens are, as a greedy answer has it. "steps" are facts
            where the second half of 1024 tokens is read token by token.
        """
        hylora.set_attention(model, "full")
        found = {"full": self._by_length(model, LENGTHS)}
        found["full"]["ruler"], found["full"]["ruler exact"] = self._ruler(model)
        if own is not None:
            name, options = own
            hylora.set_attention(model, name, **options)
            found["own"] = self._by_length(model, OWN_LENGTHS)
        if own is None or name.startswith("se_attn"):
            steps = recall_by_steps(model, self._steps, prefill=TUNED // 2)
            found["full" if own is None else "own"]["steps"] = 100 * steps["steps"]
        return found

    @torch.no_grad()
    def _ruler(self, model: nn.Module) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, float]]]:
        """Models of this size hardly give a whole number of seven digits, so its tokens are counted, too."""
        tokens: dict[int, dict[str, float]] = {length: {} for length in RULER_LENGTHS}
        exact: dict[int, dict[str, float]] = {length: {} for length in RULER_LENGTHS}
        with evaluation_mode(model):
            for (length, task), prompts in self._prompts.items():
                right = []
                for prompt, answer in prompts:
                    logits = model(torch.cat([prompt, answer])[None], use_cache=False).logits[0]
                    right.append((logits[len(prompt) - 1 : -1].argmax(-1) == answer).double())
                tokens[length][task] = 100 * fmean(float(one.mean()) for one in right)
                exact[length][task] = 100 * fmean(float(one.all()) for one in right)
        return tokens, exact

    @cached_property
    def _prompts(self) -> dict[tuple[int, str], list[tuple[Tensor, Tensor]]]:
        """Token ids of prompts and answers."""
        haystack = Haystack("held out", "\n\n".join(document.text for document in self._held_out))
        found = {}
        for length, task in product(RULER_LENGTHS, TASKS):
            records = generate(task, self._tokenizer, length, SAMPLES, seed=self._seed, haystack=haystack)
            texts = [(record.prompt, f" {record.outputs[0]}") for record in records]
            found[length, task] = [tuple(self._ids(text) for text in pair) for pair in texts]
        return found

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self._tokenizer(text, verbose=False)["input_ids"])

    def _by_length(self, model: nn.Module, lengths: tuple[int, ...]) -> dict[str, Any]:
        return {
            "nll": {length: perplexity(model, self._text, length).nll for length in lengths},
            "facts": {
                length: 100 * recall_by_distance(model, sequences, (0, length), batch_size=4).accuracy
                for length, sequences in self._facts.items()
            },
        }
