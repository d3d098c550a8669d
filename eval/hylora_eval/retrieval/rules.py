# SPDX-License-Identifier: Apache-2.0
"""Ways to choose memory blocks: those of the library, rivals that exist for comparison alone, and the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from hylora_eval.retrieval.capture import AttentionCall
from hylora_eval.retrieval.mass import attention_weights, block_mass, candidates, query_slices
from hylora_kernels import select_blocks
from hylora_kernels.inputs import accumulation_dtype
from hylora_kernels.options import SUMMARIES, SpanOptions
from hylora_kernels.selection import rank, summarize_blocks, token_scores

__all__ = ["DEFAULT_RULES", "OWN", "Chooser", "Rule", "parse_rules"]

# The rule of the model's own attention.
OWN = "own"
RIVALS = ("sub_blocks", "infllm_v2", "oracle")
DEFAULT_RULES = (
    ("published", "mean_key/max", "mean_std/max", "min_max/max", "gaussian/max", "attention", "landmark", "mean_key")
    + ("mean_std", "min_max", "gaussian", "representatives")
    + RIVALS
)
# Means of a block's parts in "sub_blocks": as many vectors as 3 representatives and the mean of the rest.
PARTS = 4
# Of InfLLM-V2 (MiniCPM4): tokens of a block, of the windows whose keys are averaged, and between their starts.
INFLLM_BLOCK, INFLLM_WINDOW, INFLLM_STRIDE = 64, 32, 16

# From queries [Hq, N, D] at positions [N] to scores of the blocks [Hkv, N, blocks].
Scores = Callable[[Tensor, Tensor], Tensor]
# From positions of readers and of tokens that choose for them to blocks: see `Rule.chooser`.
Chooser = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """A way to choose blocks.

    Attributes:
        name: as it is typed: a summary by which each token chooses by its own query, with "/chunk" once for a chunk by
            the sum of scores (the published way) or with "/max" by their maximum; "sub_blocks", "infllm_v2", "oracle",
            "oracle/chunk"; or "own".
        options: blocks, chunks and how many are retrieved; None for those of the model's own attention.
    """

    name: str
    options: SpanOptions | None

    @property
    def by_query(self) -> bool:
        """Whether it is known to choose for each token by a query that can be exchanged for another's."""
        return self.options is not None and self.options.chooses_per_token

    def chooser(self, call: AttentionCall) -> Chooser:
        """How tokens choose in one layer.

        Args:
            call: of the layer.

        Returns:
            A function of the positions [N] of the tokens that read what is chosen, and of those [N] by whose queries
            it is chosen: the same unless `by_query`. It gives blocks [Hkv, N, top_k], best first, filled up with -1.
        """
        options = self.options or call.own
        if self.name == "oracle/chunk":
            return partial(_shared, partial(_chunk_by_mass, call, options), options)
        if not self.by_query:
            whole = select_blocks(
                call.query[None], call.key[None], call.value[None], options, scale=call.scale, backend="auto"
            )[0]
            return partial(_shared, lambda units: whole[:, units], options)
        scores = _SCORES.get(self.name, _library_scores)(call, options)
        return partial(_by_query, call, scores, options)


def parse_rules(names: Iterable[str], block_sizes: Sequence[int], read: int, chunk_size: int) -> tuple[Rule, ...]:
    """Rules from their names.

    Args:
        names: see `Rule`; "published" is "attention/chunk".
        block_sizes: each rule is taken once for each of them; "infllm_v2" has its own, 64.
        read: tokens that a selection retrieves, a multiple of each.
        chunk_size: tokens of a chunk.

    Raises:
        ValueError: naming what is wrong.
    """
    names, rules = list(names), []
    for size in block_sizes:
        if read % size:
            raise ValueError(f"read={read} tokens must be a whole number of blocks of block_size={size}")
    for name in names:
        # InfLLM-V2 retrieves at least one block, however few tokens are read.
        sizes = [INFLLM_BLOCK] if name == "infllm_v2" else block_sizes
        rules += [_parse(name, size, max(1, read // size), max(chunk_size, size)) for size in sizes]
    return tuple(dict.fromkeys(rules))


def _parse(name: str, block_size: int, top_k: int, chunk_size: int) -> Rule:
    if name == OWN:
        return Rule(OWN, None)
    what, _, way = ("attention/chunk" if name == "published" else name).partition("/")
    ways = {"oracle": ("", "chunk"), "sub_blocks": ("",), "infllm_v2": ("",)}.get(what, ("", "chunk", "max"))
    if what not in (*SUMMARIES, *RIVALS) or way not in ways or name.endswith("/"):
        known = ", ".join(("published", OWN, *SUMMARIES, *RIVALS))
        raise ValueError(
            f"rule {name!r} is not known; choose one of {known}, or of a summary its chunk form with /chunk or /max"
        )
    if what == "sub_blocks" and block_size % PARTS:
        raise ValueError(f"block_size={block_size} must be a multiple of {PARTS} for the rule 'sub_blocks'")
    geometry = {"block_size": block_size, "top_k": top_k, "chunk_size": chunk_size}
    if way:
        geometry |= {"selection": "chunk", "pooling": "max" if way == "max" else "sum"}
    else:
        geometry |= {"selection": "token"}
    return Rule(name, SpanOptions(**geometry, summary=what if what in SUMMARIES else "mean_key"))


def _by_query(call: AttentionCall, scores: Scores, options: SpanOptions, positions: Tensor, asking: Tensor) -> Tensor:
    return rank(scores(call.query[:, asking], positions), candidates(positions, options), options.top_k)


def _shared(of_units: Callable[[Tensor], Tensor], options: SpanOptions, positions: Tensor, asking: Tensor) -> Tensor:
    return of_units(positions // options.unit_size)


def _library_scores(call: AttentionCall, options: SpanOptions) -> Scores:
    row = (call.query[None], call.key[None], call.value[None])
    summaries = summarize_blocks(*row, call.key.shape[1] // options.block_size, options, call.scale)
    return lambda query, positions: token_scores(query[None], summaries, options, call.scale)[0]


def _sub_block_scores(call: AttentionCall, options: SpanOptions) -> Scores:
    """The log-sum-exp of the products with the means of a block's parts."""
    size, heads = options.block_size, len(call.key)
    blocks = call.key.shape[1] // size
    keys = call.key[:, : blocks * size].to(accumulation_dtype(call.key.dtype))
    parts = keys.unflatten(1, (blocks * PARTS, size // PARTS)).mean(dim=2)

    def scores(query: Tensor, positions: Tensor) -> Tensor:
        logits = query.to(parts.dtype).unflatten(0, (heads, -1)) @ parts[:, None].mT * call.scale
        return logits.unflatten(3, (blocks, PARTS)).logsumexp(dim=4).sum(dim=1)

    return scores


def _infllm_scores(call: AttentionCall, options: SpanOptions) -> Scores:
    """Attention over means of overlapping windows of keys, summed over heads; a block's best window counts."""
    heads, length, _ = call.key.shape
    blocks, step = length // options.block_size, options.block_size // INFLLM_STRIDE
    windows = call.key.to(accumulation_dtype(call.key.dtype)).unfold(1, INFLLM_WINDOW, INFLLM_STRIDE).mean(dim=3)
    ends = torch.arange(windows.shape[1], device=windows.device) * INFLLM_STRIDE + INFLLM_WINDOW

    def scores(query: Tensor, positions: Tensor) -> Tensor:
        logits = query.to(windows.dtype).unflatten(0, (heads, -1)) @ windows[:, None].mT * call.scale
        logits = logits.masked_fill(ends > positions[:, None] + 1, float("-inf"))
        weights = logits.softmax(dim=3).nan_to_num(0).sum(dim=1)
        # Every window that overlaps a block: from a stride before its start to the last that starts in it.
        weights = pad(weights, (1, max(0, blocks * step - windows.shape[1])))
        return weights.unfold(2, step + 1, step)[:, :, :blocks].amax(dim=3)

    return scores


def _oracle_scores(call: AttentionCall, options: SpanOptions) -> Scores:
    """The share of full attention that lies on a block."""

    def scores(query: Tensor, positions: Tensor) -> Tensor:
        return block_mass(attention_weights(call, query, positions), positions, options)

    return scores


def _chunk_by_mass(call: AttentionCall, options: SpanOptions, units: Tensor) -> Tensor:
    """The blocks that full attention of a chunk's tokens would weigh most, on average."""
    heads, length, _ = call.key.shape
    chosen = torch.full((heads, len(units), options.top_k), -1, device=call.key.device)
    for unit in units.unique().tolist():
        start = unit * options.chunk_size
        positions = torch.arange(start, min(start + options.chunk_size, length), device=call.key.device)
        mass = sum(
            block_mass(attention_weights(call, call.query[:, part], part), part, options).sum(dim=1, keepdim=True)
            for part in query_slices(call, positions)
        )
        chosen[:, units == unit] = rank(mass, candidates(positions[:1], options), options.top_k)
    return chosen


_SCORES = {"sub_blocks": _sub_block_scores, "infllm_v2": _infllm_scores, "oracle": _oracle_scores}
