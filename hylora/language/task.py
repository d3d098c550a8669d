# SPDX-License-Identifier: Apache-2.0
"""Language modelling as a task of the loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import hylora
from hylora.adapters.structure import base_model
from hylora.attention import resolve_name
from hylora.attention.functions import FUNCTIONS
from hylora.hub_kernels import use_hub_kernels
from hylora.language.data import Padding, TokenData, check_packing
from hylora.language.head import decoder_and_head
from hylora.language.liger import liger_causal_loss
from hylora.language.loss import IGNORED, sliced_causal_loss
from hylora.language.model import ModelPlan
from hylora.language.packed import tell_boundaries, verify_boundaries
from hylora.language.recipe import LanguageRecipe
from hylora.rope import admit_context
from hylora.runs.card import model_card
from hylora.runs.manifest import MANIFEST_NAME, RunManifest, absolute
from hylora.runs.record import RunRecord
from hylora.training.evaluation import deal, mean_loss
from hylora.training.feed import Batch, RowFeed, Share, StreamFeed, WindowSize
from hylora.training.processes import share_of
from hylora.training.task import Task

__all__ = ["CausalLoss", "LanguageTask"]

logger = logging.getLogger(__name__)


# Tokens; a mask of so many squared is a quarter of a GiB for each row.
_LONGEST_MASK = 16_384


class CausalLoss(nn.Module):
    """A causal language model whose forward pass gives its loss.

    The loss is part of the module, so that it runs inside whatever wraps it: DDP and FSDP act on forward passes.

    Args:
        model: a transformers causal language model, or a PEFT model around one.
        slice_length: positions per slice of the head.
        kernel: "sliced", or "liger" for Liger's, which chooses the slices itself.
        hub_kernels: use kernels of the Hub from the first forward pass on, when the model lies where it will run.

    Attributes:
        predictions: passes on the logits [n, V] of each slice; a forward hook on it sees them at no cost.
        shared: names of each parameter that has several.
    """

    def __init__(self, model: nn.Module, slice_length: int, kernel: str = "sliced", hub_kernels: bool = False) -> None:
        super().__init__()
        self.model = model
        self.slice_length = slice_length
        self.kernel = kernel
        self.predictions = nn.Identity()
        self._kernels_due = hub_kernels
        self._verified: set[tuple[bool, str]] = set()
        # FSDP asks the outermost module which layers to shard by.
        self._no_split_modules = getattr(model, "_no_split_modules", None)
        uses: dict[int, list[str]] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            uses.setdefault(id(parameter), []).append(name)
        self.shared = [names for names in uses.values() if len(names) > 1]

    def tie_weights(self) -> None:
        """Let modules share again what they shared at first: accelerate asks for it, whose FSDP2 parts them."""
        for first, *others in self.shared:
            parameter = self.get_parameter(first)
            for name in others:
                parent, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(parent), leaf, parameter)

    def forward(self, input_ids: Tensor, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss and token count of a batch.

        Args:
            input_ids: [B, L].
            labels: [B, L], at the positions of the inputs; -100 is ignored.
            **inputs: further inputs of the decoder, such as `attention_mask`. With `position_ids` a row holds several
                documents, which begin where those do not count on.

        Raises:
            ValueError: if documents of one row are not kept apart, or Liger's kernel is asked for predictions, of
                which it shows none.
        """
        if self.kernel == "liger" and self.predictions._forward_hooks:
            raise ValueError("loss='liger' shows no logits to hooks on `predictions`; use sliced")
        if self._kernels_due:
            logger.info("kernels of the Hub: %s", ", ".join(use_hub_kernels(self.model)))
            self._kernels_due = False
        decoder = decoder_and_head(self.model).decoder
        if "position_ids" in inputs:
            # In training other kernels may run than in evaluation, and each attention has a mask of its own.
            way = (self.training, decoder.config._attn_implementation)
            if way not in self._verified:
                verify_boundaries(decoder, input_ids.device)
                self._verified.add(way)
            inputs = tell_boundaries(decoder.config, {"input_ids": input_ids, "labels": labels, **inputs})
            input_ids, labels = inputs.pop("input_ids"), inputs.pop("labels")
        hidden = decoder(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
        # Asked for only now: ZeRO-3 takes a head away again that is tied to embeddings, once these have run.
        parts = decoder_and_head(self.model)
        if self.kernel == "liger":
            return liger_causal_loss(hidden, parts.weight, labels, parts.bias, parts.transform)
        return sliced_causal_loss(
            hidden,
            parts.weight,
            labels,
            parts.bias,
            slice_length=self.slice_length,
            transform=parts.transform,
            watch=self.predictions if self.predictions._forward_hooks else None,
        )


class LanguageTask(Task):
    """Next-token prediction on rows of tokens.

    Args:
        model: the model with its loss.
        tokenizer: saved beside the weights.
        data: rows to train on and to evaluate on.
        recipe: of the run.
        plan: of its model.
        share: this process's share of each update.
        identity: what must not have changed when the run is resumed.
    """

    unit = "tokens"
    last_file = MANIFEST_NAME

    def __init__(
        self,
        model: CausalLoss,
        tokenizer: Any,
        data: TokenData,
        recipe: LanguageRecipe,
        plan: ModelPlan,
        share: Share | None = None,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._data = data
        self._recipe = recipe
        self._plan = plan
        self._identity = identity or {}
        self._collate = Padding(tokenizer.pad_token_id or 0)
        loop = recipe.training
        size = WindowSize(loop.global_batch_size, loop.batch_size)
        if hasattr(data.train, "__len__"):
            self.feed = RowFeed(data.train, self._collate, size, share, loop.workers)
        else:
            # A stream is read by the training process itself, which keeps its place.
            self.feed = StreamFeed(data.train, self._collate, size, share)

    def count(self, batch: Batch) -> int:
        """Tokens that are predicted."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """Loss per token, and perplexity, on the held-out rows with the attention trained with."""
        if self._data.validation is None:
            return {}
        held_out = self._recipe.evaluation
        groups = deal(
            self._data.validation, held_out.batch_size, share_of(accelerator), _without_labels, held_out.max_sequences
        )
        loss = mean_loss(model, map(self._collate, groups), accelerator, check_stop)
        return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}

    def evaluate_ends(
        self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]
    ) -> dict[str, float]:
        """The same with full attention, as "full_loss" and "full_perplexity", where another is trained with.

        Nothing where full attention cannot tell apart the documents of a row, or needs a mask of the length's square
        to do so and the rows are long, or holds all scores as `eager` does: training may then have no room for it.
        """
        base, masked = base_model(self.model.model), self._recipe.data.packing != "eos"
        if masked and self._recipe.training.sequence_length > _LONGEST_MASK:
            return {}
        full = resolve_name("full", base.config)
        if self._plan.attention not in FUNCTIONS or full != "sdpa" or not base._supports_sdpa:
            return {}
        try:
            check_packing(self._recipe.data, base.config.get_text_config(), "full")
        except ValueError:
            return {}
        base.set_attn_implementation(full)
        try:
            found = self.evaluate(model, accelerator, check_stop)
        finally:
            base.set_attn_implementation(self._plan.attention)
        return {f"full_{name}": value for name, value in found.items()}

    def identity(self) -> Mapping[str, str]:
        """Fingerprints of the data, the tokenizer and the base model."""
        return self._identity

    def describe(self) -> Mapping[str, Any]:
        """Documents, tokens and rows, and what was dropped or held out, by source."""
        return self._data.description

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write what `hylora.load` reads, weights, tokenizer and `hylora.json`, and a model card."""
        if state is not None:
            state = {name.removeprefix("model."): value for name, value in state.items()}
        if self._plan.adapter is None:
            admit_context(self.model.model.config, self._recipe.training.sequence_length)
        self.model.model.save_pretrained(folder, state_dict=state)
        self._tokenizer.save_pretrained(folder)
        model, config = self._recipe.model, self._plan.config.get_text_config()
        manifest = RunManifest(
            attention=self._plan.attention,
            span_attention=getattr(config, "span_attention", None) or {},
            base_model=None if self._plan.adapter is None else absolute(model.path),
            base_revision=model.revision,
            **self._plan.rope,
            quantization=None if self._plan.quantization is None else asdict(self._plan.quantization),
            context_length=self._recipe.training.sequence_length,
            hylora_version=hylora.__version__,
        )
        manifest.save(folder)
        run = Path(self._recipe.output.path).resolve()
        card = model_card(self.model, manifest, self._plan.adapter, run.name, RunRecord.read(run), merged=False)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _without_labels(row: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**row, "labels": torch.full_like(row["labels"], IGNORED)}
