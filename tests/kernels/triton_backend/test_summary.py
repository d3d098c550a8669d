# SPDX-License-Identifier: Apache-2.0
"""Summaries of blocks, and sums of their queries, against the reference's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hylora_kernels import SequenceLayout, reference
from hylora_kernels import selection as torch_selection
from hylora_kernels.options import TWO_VECTORS, SpanOptions, summary_width
from hylora_kernels.triton_backend.launch import Launch, forced
from hylora_kernels.triton_backend.summary import summarize_blocks
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.inputs import random_inputs
from tests.kernels.triton_backend.test_forward import DEVICE, padding
from tests.tolerances import assert_close

ONE_VECTOR = ("attention", "landmark", "mean_key")
SUMMARIES = pytest.mark.parametrize("summary", [*ONE_VECTOR, *TWO_VECTORS])
RAGGED = SequenceLayout(4, 110, ((0, 17, 93), (1, 0, 50), (1, 50, 1), (1, 51, 59), (3, 0, 80)))


def options_of(summary="attention", block_size=16, selection="chunk", query_group=1):
    return SpanOptions(block_size, 3, 2 * block_size, selection, query_group, "relevance", summary, 5)


def check(inputs, layout, options, scale=0.3, garbage=float("nan")):
    """Compare each sequence's blocks with those of the sequence alone."""
    query, key, value = inputs = [x.to(DEVICE) for x in inputs]
    for x in inputs:
        x.masked_fill_(padding(layout)[:, None, :, None], garbage)
    tables = span_tables(layout, options, torch.device(DEVICE))
    summaries, sums = summarize_blocks(query, key, value, tables, options, scale)
    size, kv_heads, wide = options.block_size, key.shape[1], [x.float() for x in inputs]
    assert summaries.dtype == torch.float32
    assert summaries.shape == (kv_heads, len(tables.blocks), summary_width(options, key.shape[3]))
    assert (sums is None) == (options.unit_size % size != 0)
    first = 0
    for row, start, length in layout.sequences:
        at, blocks = slice(start, start + length), slice(first, first + -(-length // size))
        for head in range(kv_heads):
            q, k, v = (x[row].unflatten(0, (kv_heads, -1))[head, :, at] for x in wide)
            expected = reference.summarize_blocks(q, k[0], v[0], options, scale)
            expected = expected.reshape(-1, summaries.shape[2])
            assert_close(summaries[head, blocks][: length // size], expected)
            assert summaries[head, blocks].isfinite().all()
            if sums is not None:
                features = torch_selection.query_features(q[None], 1, options, scale)[0, 0]
                assert_close(sums[head, blocks], torch.stack([part.sum(dim=0) for part in features.split(size)]))
        first = blocks.stop
    return summaries, sums


@SUMMARIES
@pytest.mark.parametrize(("heads", "block_size"), [(1, 32), (2, 16), (3, 16)])
def test_heads_that_share_keys(heads, block_size, summary):
    inputs = random_inputs(1, 2 * heads, 2, 110, head_dim=16, dtype=torch.float32)
    check(inputs, SequenceLayout.dense(1, 110), options_of(summary, block_size))


@SUMMARIES
@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_padded_and_packed_rows(garbage, summary):
    check(random_inputs(4, 2, 1, 110, 16, torch.float32), RAGGED, options_of(summary), garbage=garbage)


@SUMMARIES
@pytest.mark.parametrize("head_dim", [8, 24, 64])
def test_head_dims(head_dim, summary):
    inputs = random_inputs(1, 2, 1, 70, head_dim, torch.float32)
    check(inputs, SequenceLayout.dense(1, 70), options_of(summary))


@SUMMARIES
def test_half_precision(summary):
    """Computed in float32 from the numbers as they are: no less exact than float32."""
    check(random_inputs(4, 2, 1, 110, 16, torch.float16), RAGGED, options_of(summary))


@pytest.mark.parametrize("block_size", [16, 64, 128])
@pytest.mark.parametrize("keys_and_rows", [(16, 16), (128, 16), (32, 128)])
def test_tiles_of_several_blocks_and_of_parts_of_queries(keys_and_rows, block_size):
    inputs = random_inputs(1, 2, 1, 300, 16, torch.float32)
    with forced(summary=Launch(*keys_and_rows, num_warps=4, num_stages=2)):
        check(inputs, SequenceLayout.dense(1, 300), options_of(block_size=block_size))


@pytest.mark.parametrize("scale", [0.3, -2.0])
def test_strided_memory(scale):
    """As `[B, L, H, D]`: slices of a fused projection."""
    fused = torch.randn(2, 50, 8, 16, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    check((fused[:, :4], fused[:, 4:6], fused[:, 6:]), SequenceLayout.dense(2, 50), options_of(), scale)


def test_large_scores():
    query, key, value = random_inputs(1, 1, 1, 64, 16, torch.float32)
    query[..., 0], key[..., 0] = 20.0, torch.linspace(-20, 20, 64)
    check((query, key, value), SequenceLayout.dense(1, 64), options_of(), scale=1.0)


@pytest.mark.parametrize("summary", [*ONE_VECTOR, "mean_std", "gaussian"])
def test_what_is_not_a_number_stays_within_its_block(summary):
    inputs = [x.to(DEVICE) for x in random_inputs(1, 1, 1, 64, 16, torch.float32)]
    tables = span_tables(SequenceLayout.dense(1, 64), options_of(summary), torch.device(DEVICE))
    expected, _ = summarize_blocks(*inputs, tables, options_of(summary), 0.3)
    for x in inputs:
        x[:, :, 20] = float("nan")
    actual, _ = summarize_blocks(*inputs, tables, options_of(summary), 0.3)
    assert actual[:, 1].isnan().all()
    torch.testing.assert_close(actual[:, [0, 2, 3]], expected[:, [0, 2, 3]])


def test_bfloat16_summaries_take_the_place_of_wide_ones():
    """Of numbers that need no rounding, which the interpreter does not do."""
    inputs = [x.round().to(DEVICE) for x in random_inputs(4, 2, 1, 110, 24, torch.float32)]
    wide = options_of("min_max")
    narrow = replace(wide, summary_dtype="bfloat16")
    tables = span_tables(RAGGED, wide, torch.device(DEVICE))
    (exact, sums), (summaries, same) = (summarize_blocks(*inputs, tables, x, 0.3) for x in (wide, narrow))
    assert summaries.dtype == torch.bfloat16 and same.dtype == torch.float32
    assert torch.equal(summaries.float(), exact) and torch.equal(same, sums)


@pytest.mark.gpu
@SUMMARIES
@pytest.mark.parametrize("head_dim", [64, 80])
def test_bfloat16_summaries_are_the_nearest(head_dim, summary):
    inputs = [x.to(DEVICE) for x in random_inputs(2, 6, 2, 4200, head_dim, torch.float32)]
    wide = options_of(summary)
    tables = span_tables(SequenceLayout.dense(2, 4200), wide, torch.device(DEVICE))
    exact, _ = summarize_blocks(*inputs, tables, wide, 0.1)
    rounded, _ = summarize_blocks(*inputs, tables, replace(wide, summary_dtype="bfloat16"), 0.1)
    # Half a step of numbers of eight bits; a little more, since sums may be formed in another order.
    assert ((rounded.float() - exact).abs() <= 1.001 * 2**-8 * exact.abs()).all()


@SUMMARIES
def test_no_sums_where_units_are_not_whole_blocks(summary):
    options = options_of(summary, selection="causal", query_group=8)
    check(random_inputs(1, 2, 1, 70, 16, torch.float32), SequenceLayout.dense(1, 70), options)


def test_no_sequences():
    summaries, sums = check(random_inputs(2, 2, 1, 5, 16, torch.float32), SequenceLayout(2, 5, ()), options_of())
    assert summaries.shape == sums.shape == (1, 0, 16)


@pytest.mark.gpu
@SUMMARIES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("head_dim", [64, 80, 256])
@pytest.mark.parametrize("block_size", [8, 32, 128])
def test_real_sizes(block_size, head_dim, dtype, summary):
    layout = SequenceLayout(2, 4200, ((0, 100, 4100), (1, 0, 3000), (1, 3000, 1111)))
    inputs = [x.to(DEVICE) for x in random_inputs(2, 6, 2, 4200, head_dim, dtype)]
    inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]  # as models have them
    options, scale = options_of(summary, block_size), head_dim**-0.5
    first = check(inputs, layout, options, scale)
    again = summarize_blocks(*inputs, span_tables(layout, options, torch.device(DEVICE)), options, scale)
    assert all(map(torch.equal, first, again))
