# SPDX-License-Identifier: Apache-2.0
"""Greedy answers to prompts, several at once where the model allows it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

__all__ = ["Answer", "Answerer"]

# Prompts and steps of the check that padding changes nothing.
CHECK_LENGTHS = (41, 23)
CHECK_STEPS = 4


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: without special tokens.
        tokens: how many were generated, the end-of-sequence token included.
    """

    text: str
    tokens: int


class Answerer:
    """Lets a model answer prompts greedily until it ends or the tokens are used up.

    Generation settings that come with the model, such as a repetition penalty, are left aside. Prompts pass through
    the model's attention as it is set; only the last position's logits are computed.

    Args:
        model: a transformers causal language model, or a PEFT model around one, in evaluation mode.
        tokenizer: its tokenizer.

    Raises:
        ValueError: if the adapter is one that learns prompts.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        if isinstance(model, PeftModel):
            if model.active_peft_config.is_prompt_learning:
                raise ValueError(
                    f"{model.active_peft_config.peft_type} adapters are not supported; merge it or use LoRA"
                )
            model = model.get_base_model()
        self._model = model
        self._tokenizer = tokenizer
        self._ends = _end_tokens(model, tokenizer)
        pad = (
            tokenizer.pad_token_id
            if tokenizer.pad_token_id is not None
            else model.config.get_text_config().pad_token_id
        )
        self._pad = pad if pad is not None else (self._ends[0] if self._ends else 0)

    def answer(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """Answer prompts, padded on the left to the longest.

        Args:
            prompts: token ids of each.
            max_new_tokens: the most that are generated.
        """
        width = max(map(len, prompts))
        output = self._generate(prompts, max_new_tokens, eos_token_id=self._ends or None)
        answers = []
        for row in output.sequences[:, width:].tolist():
            end = next((place for place, token in enumerate(row, 1) if token in self._ends), len(row))
            answers.append(Answer(self._tokenizer.decode(row[:end], skip_special_tokens=True), end))
        return answers

    def honours_padding(self) -> bool:
        """Whether a padded prompt is answered as it is without padding, tried on random tokens."""
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        draw = torch.Generator().manual_seed(0)
        prompts = [torch.randint(vocabulary, (length,), generator=draw).tolist() for length in CHECK_LENGTHS]
        try:
            together = self._generate(prompts, CHECK_STEPS, output_logits=True)
        except (ValueError, TypeError, NotImplementedError):
            return False
        alone = self._generate(prompts[1:], CHECK_STEPS, output_logits=True)
        tolerance = 1e-3 if self._model.get_input_embeddings().weight.dtype in (torch.float32, torch.float64) else 0.1
        for step, (padded, plain) in enumerate(zip(together.logits, alone.logits, strict=True)):
            if _distance(padded[1], plain[0]) > tolerance:
                return False
            if together.sequences[1, CHECK_LENGTHS[0] + step] != alone.sequences[0, CHECK_LENGTHS[1] + step]:
                # Two tokens were equally likely; what follows cannot be compared.
                break
        return True

    def _generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **settings: Any) -> Any:
        width = max(map(len, prompts))
        device = self._model.get_input_embeddings().weight.device
        ids = torch.tensor([[self._pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=self._pad,
            return_dict_in_generate=True,
            **settings,
        )
        with torch.no_grad(), _generation_config(self._model, config), _unreminded():
            return self._model.generate(input_ids=ids, attention_mask=mask, generation_config=config)


@contextmanager
def _generation_config(model: nn.Module, config: GenerationConfig) -> Iterator[None]:
    """Replace the settings that come with a model: `generate` would take from them all that `config` leaves open."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _unreminded() -> Iterator[None]:
    """Without transformers' reminder that a prompt is longer than the model was made for: here that is asked for."""
    logger = logging.getLogger("transformers.generation.stopping_criteria")

    def is_other(record: logging.LogRecord) -> bool:
        return "exceeded the model's predefined maximum length" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer, by the model's settings and by the tokenizer."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = []
    return sorted({*([ends] if isinstance(ends, int) else ends), tokenizer.eos_token_id} - {None})


def _distance(logits: Tensor, other: Tensor) -> float:
    """Difference of two rows of logits, relative to their spread; a constant added to a row changes no probability."""
    logits, other = logits.double() - logits.double().mean(), other.double() - other.double().mean()
    return float((logits - other).norm() / other.norm())
