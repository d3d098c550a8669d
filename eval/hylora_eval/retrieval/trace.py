# SPDX-License-Identifier: Apache-2.0
"""Which blocks a model's attention layers retrieve while it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from hylora.architecture import attention_layers
from hylora.attention import SpanConfig, kernel_options
from hylora.training.evaluation import evaluation_mode
from hylora_eval.retrieval.capture import AttentionCall, observe_attention
from hylora_eval.retrieval.mass import AttentionMass, attention_mass
from hylora_kernels.options import SpanOptions

__all__ = ["LayerTrace", "RetrievalTrace", "retrieval_options", "trace_retrieval"]


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """What one attention layer retrieved.

    Attributes:
        layer: its index in the model.
        blocks: of each KV head and selection, counted from the sequence's start: int64 [Hkv, selections, top_k], best
            first, filled up with -1.
        mass: comparison with an oracle by attention mass, None where none was asked for.
    """

    layer: int
    blocks: Tensor
    mass: AttentionMass | None


@dataclass(frozen=True, eq=False)
class RetrievalTrace:
    """What a model retrieved while it read one sequence; all tensors are on the CPU.

    Attributes:
        length: tokens of the sequence.
        options: by which blocks were chosen: chunk and block size, top-k, tokens per selection.
        layers: its attention layers, in their order.
    """

    length: int
    options: SpanOptions
    layers: tuple[LayerTrace, ...]

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row of plain JSON types for each choice: by which layer, head and tokens, which blocks, and their mass."""
        for layer in self.layers:
            for head, of_head in enumerate(layer.blocks.tolist()):
                for selection, blocks in enumerate(of_head):
                    start = selection * self.options.unit_size
                    row = {
                        "layer": layer.layer,
                        "head": head,
                        "selection": selection,
                        "start": start,
                        "stop": min(start + self.options.unit_size, self.length),
                        "blocks": [block for block in blocks if block >= 0],
                    }
                    if layer.mass is not None:
                        best = layer.mass.blocks[head, selection].tolist()
                        row["oracle"] = [block for block in best if block >= 0]
                        for name in ("retrieved", "oracle", "candidates", "own_chunk"):
                            row[f"{name}_mass"] = float(getattr(layer.mass, name)[head, selection])
                    yield row


def retrieval_options(model: nn.Module) -> SpanOptions:
    """How a model chooses blocks in evaluation.

    Args:
        model: a causal language model, or a PEFT model around one.

    Raises:
        ValueError: if its attention is not "se_attn".
    """
    if model.config._attn_implementation != "se_attn":
        raise ValueError(
            f"the model's attention is {model.config._attn_implementation!r}, which retrieves nothing; choose "
            "hylora.set_attention(model, 'se_attn', ...) first"
        )
    return kernel_options(SpanConfig.of(model.config.get_text_config()), None, 0)


@torch.no_grad()
def trace_retrieval(model: nn.Module, input_ids: Tensor, oracle: bool = True) -> list[RetrievalTrace]:
    """Record the blocks that span-expanded attention retrieves, by layer, KV head and selection.

    The oracle takes each layer's queries and keys as they are under span-expanded attention and asks where full
    attention would look from there (see `attention_mass`).

    Args:
        model: a causal language model, or a PEFT model around one, with "se_attn" as its attention.
        input_ids: tokens [B, L] without padding.
        oracle: compare with the oracle, which costs what full attention does.

    Returns:
        A trace for each row.

    Raises:
        ValueError: if the attention is another one, or `input_ids` is not [B, L].
    """
    options = retrieval_options(model)
    if input_ids.ndim != 2 or input_ids.shape[1] < 2:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; [B, L] with at least 2 tokens is needed")
    calls: list[list[tuple[Tensor, AttentionMass | None]]] = []  # of each layer, a pair for each row

    def observe(call: AttentionCall) -> None:
        # Only what comes out is kept: queries and keys of all layers would not fit beside a long sequence.
        rows = []
        for query, key, blocks in zip(call.query, call.key, call.retrieved(), strict=True):
            mass = attention_mass(query, key, blocks, call.options, call.scale) if oracle else None
            rows.append((blocks.cpu(), mass and _on_cpu(mass)))
        calls.append(rows)

    device = model.get_input_embeddings().weight.device
    decoder = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_decoder()
    with evaluation_mode(model), observe_attention(model, observe):
        decoder(input_ids=input_ids.to(device), use_cache=False)
    layers = attention_layers(model.config)
    return [
        RetrievalTrace(
            input_ids.shape[1],
            options,
            tuple(LayerTrace(layer, *rows[row]) for layer, rows in zip(layers, calls, strict=True)),
        )
        for row in range(len(input_ids))
    ]


def _on_cpu(mass: AttentionMass) -> AttentionMass:
    return replace(mass, **{field.name: getattr(mass, field.name).cpu() for field in fields(mass)})
