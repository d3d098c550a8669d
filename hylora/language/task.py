# SPDX-License-Identifier: Apache-2.0
"""Language modelling as a task of the loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import hylora
from hylora.language.data import collate
from hylora.language.head import decoder_and_head
from hylora.language.loss import IGNORED, sliced_causal_loss
from hylora.language.model import ModelPlan
from hylora.language.recipe import LanguageRecipe
from hylora.runs.manifest import RunManifest, absolute
from hylora.training.processes import sum_over_processes
from hylora.training.task import Batch

__all__ = ["CausalLoss", "LanguageTask"]


class CausalLoss(nn.Module):
    """A causal language model whose forward pass gives its loss.

    The loss is part of the module, so that it runs inside whatever wraps it: DDP and FSDP act on forward passes.

    Args:
        model: a transformers causal language model, or a PEFT model around one.
        slice_length: positions per slice of the head.
    """

    def __init__(self, model: nn.Module, slice_length: int) -> None:
        super().__init__()
        self.model = model
        self.slice_length = slice_length
        # FSDP asks the outermost module which layers to shard by.
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, input_ids: Tensor, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss and token count of a batch.

        Args:
            input_ids: [B, L].
            labels: [B, L], at the positions of the inputs; -100 is ignored.
            **inputs: further inputs of the decoder, such as `attention_mask`.
        """
        parts = decoder_and_head(self.model)
        hidden = parts.decoder(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
        return sliced_causal_loss(
            hidden,
            parts.weight,
            labels,
            parts.bias,
            slice_length=self.slice_length,
            transform=parts.transform,
        )


@dataclass
class LanguageTask:
    """Next-token prediction on rows of tokens.

    Args:
        model: the model with its loss.
        tokenizer: saved beside the weights.
        rows: to train on.
        held_out: to evaluate on, map-style or a stream that ends, or None.
        recipe: of the run.
        plan: of its model.
    """

    model: CausalLoss
    tokenizer: Any
    rows: Any
    held_out: Any
    recipe: LanguageRecipe
    plan: ModelPlan
    unit: str = "tokens"

    def collate(self, rows: Sequence[dict[str, Tensor]]) -> Batch:
        """Stack rows, padded on the right."""
        return collate(rows, self.tokenizer.pad_token_id or 0)

    def count(self, batch: Batch) -> int:
        """Tokens that are predicted."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def evaluate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Loss per token, and perplexity, on the held-out rows with the attention trained with."""
        if self.held_out is None:
            return {}
        total = torch.zeros(2, device=accelerator.device)
        for batch in self._evaluation_batches(accelerator):
            batch = {name: value.to(accelerator.device) for name, value in batch.items()}
            with torch.no_grad():
                total += torch.stack([value.float() for value in model(**batch)])
        loss_sum, count = sum_over_processes(accelerator, *total.tolist())
        loss = loss_sum / max(count, 1)
        return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}

    def _evaluation_batches(self, accelerator: Accelerator) -> Iterator[Batch]:
        """This process's batches, as many as every other process has: forward passes are collective under DDP."""
        size = self.recipe.evaluation.batch_size
        rows = _rows(self.held_out)
        if self.recipe.evaluation.max_sequences is not None:
            rows = islice(rows, self.recipe.evaluation.max_sequences)
        first = accelerator.process_index * size
        while group := list(islice(rows, size * accelerator.num_processes)):
            chosen = group[first : first + size]
            if not chosen:
                # A row that counts for nothing.
                chosen = [{**group[0], "labels": torch.full_like(group[0]["labels"], IGNORED)}]
            yield self.collate(chosen)

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write what `hylora.load` reads: weights, tokenizer and `hylora.json`."""
        if state is not None:
            state = {name.removeprefix("model."): value for name, value in state.items()}
        self.model.model.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)
        model, config = self.recipe.model, self.plan.config.get_text_config()
        RunManifest(
            attention=self.plan.attention,
            span_attention=getattr(config, "span_attention", None) or {},
            base_model=None if self.plan.adapter is None else absolute(model.path),
            base_revision=model.revision,
            **self.plan.rope,
            context_length=self.recipe.training.sequence_length,
            hylora_version=hylora.__version__,
        ).save(folder)


def _rows(rows: Any) -> Iterator[dict[str, Tensor]]:
    """Map-style rows or a stream, from the first on."""
    return map(rows.__getitem__, range(len(rows))) if hasattr(rows, "__len__") else iter(rows)
