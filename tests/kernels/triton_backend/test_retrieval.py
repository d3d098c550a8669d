# SPDX-License-Identifier: Apache-2.0
"""The choice of blocks by kernels equals that of the definition, ties included."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, reference, selection
from hylora_kernels.options import SpanOptions
from hylora_kernels.triton_backend.launch import Launch, forced
from hylora_kernels.triton_backend.retrieval import pool_queries, retrieve
from hylora_kernels.triton_backend.summary import summarize_blocks
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.inputs import random_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Launch(16, 16, 4, 1)  # several steps over few blocks
RAGGED = SequenceLayout(3, 150, ((0, 7, 143), (2, 0, 1), (2, 1, 60), (2, 65, 85)))
SHORT = SequenceLayout(3, 150, ((1, 3, 70), (2, 0, 1)))
# A chunk is not a multiple of blocks, units are of every kind: a chunk, a token, less and more than a block.
UNITS = pytest.mark.parametrize(
    ("selection", "chunk_size", "query_group"),
    [("chunk", 50, 1), ("chunk", 32, 1), ("causal", 50, 1), ("causal", 50, 10), ("causal", 64, 32)],
)


def span_options(selection="chunk", chunk_size=32, query_group=1, top_k=3, summary="attention"):
    return SpanOptions(16, top_k, chunk_size, selection, query_group, "relevance", summary, 0)


def tables_of(layout, options):
    return span_tables(layout, options, torch.device(DEVICE))


@UNITS
@pytest.mark.parametrize("with_sums", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1)])
def test_pooled_queries(selection, chunk_size, query_group, with_sums, heads, kv_heads):
    options = span_options(selection, chunk_size, query_group)
    query, key, value = (x.to(DEVICE) for x in random_inputs(3, heads, kv_heads, 150, 24, torch.float32))
    tables = tables_of(RAGGED, options)
    sums = summarize_blocks(query, key, value, tables, options, 1.0)[1] if with_sums else None
    pooled = pool_queries(query, sums, kv_heads, tables, options)
    expected = []
    for source in tables.units[:, 3].tolist():
        if source < 0:
            expected.append(query.new_zeros(kv_heads, 24))
            continue
        row, first, tokens = tables.units[source, :3].tolist()
        expected.append(query[row, :, first : first + tokens].sum(1).unflatten(0, (kv_heads, -1)).sum(1))
    assert (pooled - torch.stack(expected, dim=1)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("selection", "chunk_size", "query_group", "top_k"),
    [("chunk", 32, 1, 1), ("chunk", 32, 1, 20), ("causal", 50, 10, 3), ("causal", 50, 1, 2)],
)
def test_ties_go_to_the_earlier_block(selection, chunk_size, query_group, top_k):
    options = span_options(selection, chunk_size, query_group, top_k)
    tables = tables_of(SHORT if query_group == 1 else RAGGED, options)
    generator = torch.Generator().manual_seed(0)
    pooled, summaries = (
        torch.randint(-1, 2, (1, count, 24), generator=generator).float().to(DEVICE)
        for count in (len(tables.units), len(tables.blocks))
    )
    with forced(retrieve=SMALL):
        chosen = retrieve(pooled, summaries, tables, top_k)
    for unit, (_, _, _, _, base, candidates) in enumerate(tables.units.tolist()):
        scores = pooled[:, unit, None] @ summaries[:, base : base + candidates].mT
        expected = selected(scores, candidates, top_k)
        assert torch.equal(chosen[:, unit], expected)


def selected(scores, candidates, top_k):
    counts = torch.tensor([candidates], device=scores.device)
    return selection.rank(scores, counts, top_k)[:, 0].int()


@pytest.mark.parametrize(
    ("selection", "chunk_size", "query_group", "summary"),
    [("chunk", 50, 1, "attention"), ("chunk", 32, 1, "landmark"), ("causal", 48, 16, "mean_key")],
)
def test_choice_equals_the_reference(selection, chunk_size, query_group, summary):
    options = span_options(selection, chunk_size, query_group, summary=summary)
    inputs = [x.to(DEVICE) for x in random_inputs(3, 4, 2, 150, 16, torch.float32)]
    tables = tables_of(RAGGED, options)
    summaries, sums = summarize_blocks(*inputs, tables, options, 0.3)
    with forced(retrieve=SMALL):
        chosen = retrieve(pool_queries(inputs[0], sums, 2, tables, options), summaries, tables, options.top_k)
    expected = reference.select_blocks(*inputs, RAGGED, options, 0.3)
    assert torch.equal(chosen, torch.cat(expected, dim=1).int())


def test_signs_and_odd_numbers_keep_their_order():
    """Descending: infinity, positive, both zeros by index, negative, minus infinity; not-a-number crashes nothing."""
    options = span_options(chunk_size=160, top_k=10)
    tables = tables_of(SequenceLayout.dense(1, 170), options)
    scores = torch.tensor([-1.0, 0.0, -0.0, 2.0, -torch.inf, torch.inf, 1e-30, -1e-30, -3.0, 3.0, 0.0])
    pooled, summaries = torch.zeros(1, 2, 16, device=DEVICE), torch.zeros(1, 11, 16, device=DEVICE)
    pooled[:, :, 0] = 1
    summaries[0, :, 0] = scores.to(DEVICE).clamp(-3e38, 3e38)
    with forced(retrieve=SMALL):
        chosen = retrieve(pooled, summaries, tables, 10)
    assert chosen[0, 1].tolist() == [5, 9, 3, 6, 1, 2, 7, 0, 8, 4]
    summaries[0, 3] = torch.nan
    with forced(retrieve=SMALL):
        chosen = retrieve(pooled, summaries, tables, 10)
    assert sorted(chosen[0, 1].tolist()) == list(range(10))


@pytest.mark.gpu
@pytest.mark.parametrize("query_group", [1, 64])
@pytest.mark.parametrize("head_dim", [64, 80, 128, 160, 256])
def test_on_a_gpu(query_group, head_dim):
    """Whole numbers, whose sums are exact in whatever order."""
    options = SpanOptions(32, 8, 2048, "causal", query_group, "relevance", "mean_key", 0)
    layout = SequenceLayout.dense(1, 8192)
    query, key, value = (x.mul(2).round().cuda().bfloat16() for x in random_inputs(1, 8, 2, 8192, head_dim))
    tables = tables_of(layout, options)
    summaries, sums = summarize_blocks(query, key, value, tables, options, 1.0)
    chosen = retrieve(pool_queries(query, sums, 2, tables, options), summaries, tables, 8)
    assert torch.equal(chosen, selection.select_blocks(query, key, value, options, 1.0)[0].int())
