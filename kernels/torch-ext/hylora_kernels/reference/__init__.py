# SPDX-License-Identifier: Apache-2.0
"""The definition: every function as an explicit mask and one softmax, in plain loops. Slow, quadratic in memory."""

from __future__ import annotations

from typing import Iterator, List, Optional, Tuple, Union

import torch
from torch import Tensor

from ..hashing import hashed_scores
from ..inputs import accumulation_dtype, landmark_query, summary_dtype
from ..layout import SequenceLayout
from ..options import TWO_VECTORS, SpanOptions, group_size
from ..plain import masked_softmax
from ..scoring import Scoring


def span_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    scoring: Scoring,
    sinks: Optional[Tensor] = None,
) -> Tensor:
    """Span-expanded attention (chapter 6, equations 6.1 to 6.7)."""
    blocks = select_blocks(query, key, value, layout, options, scoring.scale)
    return block_attention(query, key, value, blocks, layout, options, True, scoring, sinks)[0]


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: List[Tensor],
    layout: SequenceLayout,
    options: SpanOptions,
    own_chunk: bool,
    scoring: Scoring,
    sinks: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """Attention to given blocks and, if wanted, causally to the own chunk; and the log-sum-exp of the scores."""
    masks = [span_mask(length, chosen, options, own_chunk) for (_, _, length), chosen in zip(layout.sequences, blocks)]
    return _masked_attention(query, key, value, layout, masks, scoring, sinks)


def sliding_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    window: int,
    scoring: Scoring,
    sinks: Optional[Tensor] = None,
) -> Tensor:
    """Each token attends to itself and the `window - 1` tokens before it."""
    masks = []
    for _, _, length in layout.sequences:
        distance = torch.arange(length)[:, None] - torch.arange(length)
        masks.append(((distance >= 0) & (distance < window)).expand(key.shape[1], length, length))
    return _masked_attention(query, key, value, layout, masks, scoring, sinks)[0]


def shifted_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    group: Union[int, float],
    scoring: Scoring,
    sinks: Optional[Tensor] = None,
) -> Tensor:
    """Causal attention within groups; the second half of the heads has its groups shifted by half a group."""
    heads = query.shape[1]
    masks = []
    for _, _, length in layout.sequences:
        size = group_size(group, length)
        mask = torch.zeros(heads, length, length, dtype=torch.bool)
        for head in range(heads):
            offset = 0 if head < heads // 2 else size - size // 2
            group_of = (torch.arange(length) + offset) // size
            mask[head] = (group_of[:, None] == group_of) & torch.ones(length, length, dtype=torch.bool).tril()
        masks.append(mask)
    per_kv_head = heads // key.shape[1]
    key, value = key.repeat_interleave(per_kv_head, dim=1), value.repeat_interleave(per_kv_head, dim=1)
    return _masked_attention(query, key, value, layout, masks, scoring, sinks)[0]


def select_blocks(
    query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, options: SpanOptions, scale: float
) -> List[Tensor]:
    """The retrieved blocks of every sequence, KV head and selection: best first, padded with -1."""
    chosen = []
    for q, k, v in _sequences(query.detach(), key.detach(), value.detach(), layout):
        heads, length = k.shape[:2]
        blocks = torch.full((heads, options.units(length), options.top_k), -1)
        if options.retrieves:
            for head in range(heads):
                q_group = q.unflatten(0, (heads, -1))[head]  # [G, L, D]
                summaries = summarize_blocks(q_group, k[head], v[head], options, scale)
                for unit in range(options.units(length)):
                    count = options.candidates(unit)
                    scores = _scores(q_group, summaries[:count], head, unit, options, scale)
                    ranked = sorted(range(count), key=lambda block, scores=scores: (-scores[block], block))
                    for rank, block in enumerate(ranked[: options.top_k]):
                        blocks[head, unit, rank] = block
        chosen.append(blocks.to(query.device))
    return chosen


def summarize_blocks(query: Tensor, key: Tensor, value: Tensor, options: SpanOptions, scale: float) -> Tensor:
    """The vectors that stand for each complete block of a single KV head (equation 6.7 and its variants), rounded.

    `query` is `[G, L, D]`, `key` and `value` are `[L, D]`; the result is `[L // S, vectors, D]`.
    """
    size = options.block_size
    summaries = []
    for start in range(0, key.shape[0] - size + 1, size):
        q, k, v = query[:, start : start + size], key[start : start + size], value[start : start + size]
        mean, variance = k.mean(dim=0), k.var(dim=0, correction=0)
        low, high = k.amin(dim=0), k.amax(dim=0)
        if options.summary == "mean_key":
            vectors = [mean]
        elif options.summary == "mean_std":
            vectors = [mean, variance.sqrt()]
        elif options.summary == "gaussian":
            vectors = [mean, variance / 2]
        elif options.summary == "min_max":
            vectors = [(low + high) / 2, (high - low) / 2]
        elif options.summary == "representatives":
            vectors = _representatives(k, options.representatives)
        else:
            if options.summary == "landmark":
                q = landmark_query(key.shape[1], options.seed).to(k)
            attended = torch.softmax(q @ k.T * scale, dim=-1) @ v
            vectors = [attended.reshape(-1, k.shape[1]).mean(dim=0)]
        summaries.append(torch.stack(vectors))
    if not summaries:
        return key.new_zeros(0, 1, key.shape[1])
    return torch.stack(summaries).to(summary_dtype(options, key.dtype)).to(key.dtype)


def score_blocks(query: Tensor, summaries: Tensor, options: SpanOptions, scale: float) -> Tensor:
    """How much each token wants each block: `[n, blocks]`, to be multiplied by the scale like any product with a key.

    `query` is `[G, n, D]`, `summaries` is `[blocks, vectors, D]`; the heads of a group vote together.
    """
    products = query[:, :, None, None] @ summaries.mT  # [G, n, blocks, 1, vectors]
    products = products.squeeze(3)
    if options.summary == "representatives":
        stands_for = torch.ones(products.shape[-1])
        stands_for[-1] = options.block_size - options.representatives
        scores = torch.logsumexp(scale * products + stands_for.log().to(products), dim=-1) / scale
    elif options.summary in TWO_VECTORS:
        spread = scale * query.square() if options.summary == "gaussian" else query.abs()
        scores = products[..., 0] + spread @ summaries[:, 1].T
    else:
        scores = products[..., 0]
    return scores.sum(dim=0)


def _representatives(keys: Tensor, count: int) -> List[Tensor]:
    """Keys `[S, D]`, each the farthest from those before it and from the mean of all; then the mean of the rest."""
    chosen = []
    for _ in range(count):
        others = [keys.mean(dim=0), *(keys[at] for at in chosen)]
        distances = [min(float((key - other).square().sum()) for other in others) for key in keys]
        chosen.append(max((at for at in range(len(keys)) if at not in chosen), key=lambda at: (distances[at], -at)))
    rest = [keys[at] for at in range(len(keys)) if at not in chosen]
    mean = torch.stack(rest).mean(dim=0) if rest else torch.zeros_like(keys[0])
    return [*(keys[at] for at in chosen), mean]


def span_mask(length: int, blocks: Tensor, options: SpanOptions, own_chunk: bool = True) -> Tensor:
    """`[Hkv, L, L]`, True where query (row) attends to key (column): retrieved blocks and own chunk, causal."""
    chunk = torch.arange(length) // options.chunk_size
    own = (chunk[:, None] == chunk) & torch.ones(length, length, dtype=torch.bool).tril()
    mask = (own & own_chunk).repeat(blocks.shape[0], 1, 1)
    for head in range(blocks.shape[0]):
        for unit in range(blocks.shape[1]):
            rows = slice(unit * options.unit_size, (unit + 1) * options.unit_size)
            for block in blocks[head, unit].tolist():
                if block >= 0:
                    mask[head, rows, block * options.block_size : (block + 1) * options.block_size] = True
    return mask


def _scores(query: Tensor, summaries: Tensor, head: int, unit: int, options: SpanOptions, scale: float) -> List[float]:
    """The scores by which one selection ranks its candidates (equation 6.5 and its variants)."""
    if options.retrieval == "random":
        blocks = torch.arange(summaries.shape[0])
        return hashed_scores(options.seed, torch.tensor(head), unit, blocks).tolist()
    source = unit - 1 if options.chooses_for_next else unit
    if source < 0 or not len(summaries):
        return []
    queries = query[:, source * options.unit_size : (source + 1) * options.unit_size]
    scores = score_blocks(queries, summaries, options, scale)
    if options.pooling == "sum":
        return scores.sum(dim=0).tolist()
    return (scale * scores).log_softmax(dim=1).amax(dim=0).tolist()


def _sequences(
    query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout
) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
    """Query `[Hq, n, D]`, key and value `[Hkv, n, D]` of each sequence, in at least float32."""
    for row, start, length in layout.sequences:
        yield tuple(x[row, :, start : start + length].to(accumulation_dtype(x.dtype)) for x in (query, key, value))


def _masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    masks: List[Tensor],
    scoring: Scoring,
    sinks: Optional[Tensor],
) -> Tuple[Tensor, Tensor]:
    """Softmax attention of each sequence under its mask `[Hkv, n, n]`, and the log-sum-exp of the scores.

    Padding has zeros and -inf, as have queries that see nothing.
    """
    output = query.masked_fill(query.new_ones((), dtype=torch.bool), 0)  # zeros that autograd traces to the query
    lse = output[..., 0].to(accumulation_dtype(query.dtype)) + float("-inf")
    sequences = _sequences(query, key, value, layout)
    for (row, start, length), tensors, mask in zip(layout.sequences, sequences, masks):
        mask = mask.repeat_interleave(query.shape[1] // len(mask), dim=0).to(query.device)
        tensors = (x[None] for x in tensors)
        attended, of_sequence = masked_softmax(*tensors, mask[None], scoring, sinks)
        output[row, :, start : start + length] = attended[0].to(query.dtype)
        lse[row, :, start : start + length] = of_sequence[0]
    return output, lse
