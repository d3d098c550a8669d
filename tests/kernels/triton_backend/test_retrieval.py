# SPDX-License-Identifier: Apache-2.0
"""The choice of blocks, step by step and whole, against plain torch and the reference."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, reference, triton_backend
from hylora_kernels import selection as torch_selection
from hylora_kernels.options import TWO_VECTORS, SpanOptions
from hylora_kernels.triton_backend.launch import Launch, forced
from hylora_kernels.triton_backend.retrieval import pool_queries, retrieve
from hylora_kernels.triton_backend.summary import summarize_blocks
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.inputs import random_inputs
from tests.kernels.triton_backend.test_forward import DEVICE
from tests.tolerances import assert_close

# selection, query_group, chunk_size: units of whole blocks, of less than a block, of blocks and a bit, and tokens
MODES = [("chunk", 1, 32), ("chunk", 1, 40), ("causal", 16, 48), ("causal", 20, 40), ("causal", 4, 40)]
MODES += [("token", 1, 40)]
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=str)
RAGGED = SequenceLayout(4, 140, ((0, 17, 123), (1, 0, 50), (1, 50, 1), (1, 51, 69)))


def options_of(mode, top_k=3, summary="attention", block_size=16):
    return SpanOptions(block_size, top_k, mode[2], *mode[:2], "relevance", summary, 5)


def tables_of(layout, options):
    return span_tables(layout, options, torch.device(DEVICE))


def integers(*shape, high=4):
    """Small integers, whose products and sums are exact and often tie."""
    drawn = torch.randint(-high, high + 1, shape, generator=torch.Generator().manual_seed(sum(shape)))
    return drawn.to(DEVICE, torch.float32)


def expected_choice(pooled, summaries, tables, top_k):
    """All scores, ranked unit by unit."""
    expected = torch.full((*pooled.shape[:2], top_k), -1, dtype=torch.int32, device=pooled.device)
    for unit, (*_, first, count) in enumerate(tables.units.tolist()):
        if count:
            scores = pooled[:, unit : unit + 1].double() @ summaries[:, first : first + count].double().mT
            ranked = torch_selection.rank(scores, torch.tensor([count], device=scores.device), top_k)
            expected[:, unit] = ranked[:, 0].to(torch.int32)
    return expected


@EVERY_MODE
@pytest.mark.parametrize(("kv_heads", "summary"), [(1, "mean_key"), (2, "mean_std")])
def test_pooled_queries(summary, kv_heads, mode):
    """The same, by way of sums of blocks where there are such, as from the queries themselves."""
    options = options_of(mode, summary=summary)
    inputs = [x.to(DEVICE) for x in random_inputs(4, 2, kv_heads, 140, 24, torch.float32)]
    query = inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    tables = tables_of(RAGGED, options)
    expected = [
        torch_selection.pool_queries(query[row : row + 1, :, start : start + length], kv_heads, options, 0.3)
        for row, start, length in RAGGED.sequences
    ]
    with forced(pool_queries=Launch(32, 16, num_warps=4, num_stages=2)):  # less than a large unit or a head at once
        _, sums = summarize_blocks(*inputs, tables, options, 0.3)
        for given in {None, sums}:
            assert_close(pool_queries(query, given, kv_heads, tables, options, 0.3), torch.cat(expected, dim=2)[0])


def test_padding_is_not_pooled():
    options = options_of(("chunk", 1, 40))
    query = torch.full((1, 1, 90, 16), float("nan"), device=DEVICE)
    query[:, :, 10:80] = 1
    pooled = pool_queries(query, None, 1, tables_of(SequenceLayout(1, 90, ((0, 10, 70),)), options), options, 0.3)
    assert pooled[0, :, 0].tolist() == [40, 30]


@EVERY_MODE
@pytest.mark.parametrize(("top_k", "dtype"), [(1, torch.float32), (12, torch.bfloat16)], ids=str)
def test_ties_and_more_asked_for_than_there_is(top_k, dtype, mode):
    tables = tables_of(RAGGED, options_of(mode))
    pooled, summaries = integers(1, len(tables.units), 24, high=1), integers(1, len(tables.blocks), 24, high=1)
    summaries = summaries.to(dtype)
    with forced(retrieve=Launch(128, 16, num_warps=4, num_stages=2)):  # a tile mixes sequences, in several steps
        chosen = retrieve(pooled, summaries, tables, top_k)
    assert torch.equal(chosen, expected_choice(pooled, summaries, tables, top_k))


def test_products_with_bfloat16_summaries_are_not_rounded():
    tables = tables_of(RAGGED, options_of(("chunk", 1, 32)))
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(2, len(tables.units), 40, generator=generator).to(DEVICE)
    summaries = torch.randn(2, len(tables.blocks), 40, generator=generator).to(DEVICE, torch.bfloat16)
    expected = expected_choice(pooled, summaries, tables, 4)
    assert torch.equal(retrieve(pooled, summaries, tables, 4), expected)


def test_zeros_of_both_signs_tie():
    tables = tables_of(SequenceLayout.dense(1, 100), options_of(("chunk", 1, 80)))
    summaries = torch.ones(1, 7, 16, device=DEVICE)
    summaries[:, 1::2] = -1
    for zero in (0.0, -0.0):
        pooled = torch.full((1, 2, 16), zero, device=DEVICE)
        assert retrieve(pooled, summaries, tables, 4)[0, 1].tolist() == [0, 1, 2, 3]


def test_order_of_extreme_scores():
    tables = tables_of(SequenceLayout.dense(1, 170), options_of(("chunk", 1, 160)))
    scores = [1e-40, -1e30, float("inf"), -1e-40, 0.0, -float("inf"), 3.0, 1e30, -3.0, 1.0]
    summaries = torch.zeros(1, 11, 16, device=DEVICE)
    summaries[0, :10, 0] = torch.tensor(scores)
    pooled = torch.zeros(1, 2, 16, device=DEVICE)
    pooled[..., 0] = 1
    # Numbers as small as the first may count as zero.
    order = [block for block in retrieve(pooled, summaries, tables, 16)[0, 1].tolist() if block not in (0, 3, 4)]
    assert order == [2, 7, 6, 9, 8, 1, 5, -1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_that_are_not_numbers(sign):
    tables = tables_of(SequenceLayout.dense(1, 170), options_of(("chunk", 1, 80)))
    pooled, summaries = integers(2, 3, 16), integers(2, 11, 16)
    expected = expected_choice(pooled, summaries, tables, 16)
    summaries[:, 3] = torch.copysign(torch.tensor(float("nan")), torch.tensor(sign))
    chosen = retrieve(pooled, summaries, tables, 16)
    # Wherever it comes: it comes once, and the others keep their order.
    assert torch.equal(chosen.sort().values, expected.sort().values)
    assert torch.equal(chosen[chosen != 3], expected[expected != 3])
    pooled[:] = float("nan")
    assert torch.equal(retrieve(pooled, summaries, tables, 16).sort().values, expected.sort().values)


@pytest.mark.parametrize("top_k", [2, 5])
def test_many_candidates_are_shared_out(top_k):
    """Few units and enough blocks for several programs each, in sequences of unequal length."""
    layout = SequenceLayout.from_cu_seqlens([0, 16 * 200 + 3, 16 * 550, 16 * 550 + 40])
    tables = tables_of(layout, options_of(("chunk", 1, 16 * 100)))
    pooled, summaries = integers(1, len(tables.units), 16), integers(1, len(tables.blocks), 16)
    chosen = retrieve(pooled, summaries, tables, top_k)
    assert torch.equal(chosen, expected_choice(pooled, summaries, tables, top_k))


def test_no_sequences():
    options = options_of(("chunk", 1, 32))
    tables = tables_of(SequenceLayout(2, 5, ()), options)
    pooled = pool_queries(torch.zeros(2, 2, 5, 16, device=DEVICE), None, 1, tables, options, 0.3)
    assert pooled.shape == (1, 0, 16)
    assert retrieve(pooled, pooled, tables, 3).shape == (1, 0, 3)


def choose(query, key, value, layout, options, scale):
    tables = tables_of(layout, options)
    summaries, sums = summarize_blocks(query, key, value, tables, options, scale)
    return retrieve(pool_queries(query, sums, key.shape[1], tables, options, scale), summaries, tables, options.top_k)


@pytest.mark.parametrize("summary", ["attention", "landmark", "mean_key", *TWO_VECTORS])
@pytest.mark.parametrize("mode", [MODES[1], MODES[2], MODES[5]], ids=str)
def test_the_whole_choice(summary, mode):
    layout = SequenceLayout(2, 110, ((0, 9, 101), (1, 0, 35), (1, 35, 75)))
    options = options_of(mode, summary=summary)
    inputs = [x.to(DEVICE) for x in random_inputs(2, 2, 1, 110, 16, torch.float32)]
    expected = reference.select_blocks(*(x.double() for x in inputs), layout, options, 0.25)
    assert torch.equal(choose(*inputs, layout, options, 0.25).long(), torch.cat(expected, dim=1))


def test_features_of_one_head_at_a_time(monkeypatch):
    inputs = [x.to(DEVICE) for x in random_inputs(1, 4, 2, 110, 16, torch.float32)]
    layout, options = SequenceLayout.dense(1, 110), options_of(("token", 1, 40), summary="mean_std")
    (whole,) = triton_backend.select_blocks(*inputs, layout, options, 0.25)
    monkeypatch.setattr(triton_backend, "_FEATURES", 1)
    assert torch.equal(triton_backend.select_blocks(*inputs, layout, options, 0.25)[0], whole)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mode", [("chunk", 1, 1024), ("causal", 16, 1024), ("token", 1, 1024)])
@pytest.mark.parametrize("summary", ["attention", "mean_std"])
@pytest.mark.parametrize(("head_dim", "top_k"), [(64, 8), (80, 5), (128, 64), (256, 16)])
def test_real_sizes(head_dim, top_k, summary, mode, dtype):
    """The scores of what is chosen are the best there are, to rounding; and the choice repeats."""
    layout = SequenceLayout(2, 8192, ((0, 192, 8000), (1, 0, 4096), (1, 4096, 4096)))
    options, scale = options_of(mode, top_k, summary, block_size=32), head_dim**-0.5
    inputs = [x.to(DEVICE) for x in random_inputs(2, 8, 2, 8192, head_dim, dtype)]
    chosen = choose(*inputs, layout, options, scale)
    assert torch.equal(chosen, choose(*inputs, layout, options, scale))
    first = 0
    for row, start, length in layout.sequences:
        q, k, v = (x[row : row + 1, :, start : start + length].double() for x in inputs)
        summaries = torch_selection.summarize_blocks(q, k, v, length // 32, options, scale)
        scores = (torch_selection.pool_queries(q, 2, options, scale) @ summaries.mT)[0]
        units = torch.arange(options.units(length), device=DEVICE)
        counts = torch.tensor([options.candidates(unit) for unit in units.tolist()], device=DEVICE)
        expected = torch_selection.rank(scores, counts, top_k)
        actual = chosen[:, first : first + len(units)].long()
        first += len(units)
        assert torch.equal(actual < 0, expected < 0)
        assert (actual < counts[:, None]).all()
        ranked = actual.sort(dim=-1).values
        assert ((ranked.diff(dim=-1) > 0) | (ranked[..., 1:] < 0)).all()  # none twice
        best, found = (scores.gather(-1, choice.clamp(min=0)) for choice in (expected, actual))
        error = (best - found).abs().masked_fill(expected < 0, 0).amax() / scores.abs().amax()
        assert error < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_k", [8, 64])
def test_real_numbers_of_candidates(top_k, dtype):
    """As many as 128k tokens have, with ties."""
    tables = tables_of(SequenceLayout.dense(1, 1 << 17), options_of(("chunk", 1, 2048), block_size=32))
    pooled, summaries = integers(30, 64, 128), integers(30, 4096, 128).to(dtype)
    chosen = retrieve(pooled, summaries, tables, top_k)
    assert torch.equal(chosen, expected_choice(pooled, summaries, tables, top_k))
