# SPDX-License-Identifier: Apache-2.0
"""Block summaries and query sums by the kernel equal the reference's."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, reference
from hylora_kernels.options import SpanOptions
from hylora_kernels.triton_backend.summary import summarize_blocks
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.inputs import random_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALE = 0.3
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
RAGGED = SequenceLayout(3, 90, ((0, 7, 83), (2, 0, 1), (2, 1, 33), (2, 40, 50)))


def check(layout, summary, block_size=16, heads=2, kv_heads=2, head_dim=16, dtype=torch.float32, strided=False):
    options = SpanOptions(block_size, 2, 64, "chunk", 1, "relevance", summary, 5)
    inputs = random_inputs(layout.batch, heads, kv_heads, layout.length, head_dim, dtype)
    real = torch.zeros(layout.batch, layout.length, dtype=torch.bool)
    for row, start, length in layout.sequences:
        real[row, start : start + length] = True
    inputs = [x.masked_fill(~real[:, None, :, None], float("nan")).to(DEVICE) for x in inputs]
    if strided:
        inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    tables = span_tables(layout, options, inputs[0].device)
    summaries, sums = summarize_blocks(*inputs, tables, options, SCALE)
    assert (sums is None) == (summary != "attention")

    base = 0
    for row, start, length in layout.sequences:
        q, k, v = (x[row, :, start : start + length].float() for x in inputs)
        q = q.unflatten(0, (kv_heads, -1))
        for head in range(kv_heads):
            expected = reference.summarize_blocks(q[head], k[head], v[head], options, SCALE)
            found = summaries[head, base : base + len(expected)]
            assert (found - expected).abs().max() <= TOLERANCE[dtype] if len(expected) else True
            if sums is not None:
                for block, tokens in enumerate(q[head].split(block_size, dim=1)):
                    expected = tokens.sum(dim=(0, 1))
                    assert (sums[head, base + block] - expected).abs().max() <= 1e-4
        base += -(-length // block_size)
    assert base == summaries.shape[1]


@pytest.mark.parametrize("summary", ["attention", "landmark", "mean_key"])
@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1)])
def test_summaries_of_ragged_sequences(summary, block_size, heads, kv_heads):
    check(RAGGED, summary, block_size, heads, kv_heads)


@pytest.mark.parametrize("summary", ["attention", "landmark", "mean_key"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("head_dim", "strided"), [(24, False), (64, True)])
def test_head_dimensions_dtypes_and_strides(summary, dtype, head_dim, strided):
    check(SequenceLayout.dense(2, 70), summary, 16, 4, 2, head_dim, dtype, strided)


@pytest.mark.gpu
@pytest.mark.parametrize("summary", ["attention", "landmark", "mean_key"])
@pytest.mark.parametrize("head_dim", [64, 80, 128, 160, 256])
def test_on_a_gpu(summary, head_dim):
    check(SequenceLayout(1, 900, ((0, 3, 450), (0, 453, 447))), summary, 32, 8, 2, head_dim, torch.bfloat16, True)


def test_nothing_to_summarize():
    check(SequenceLayout(1, 5, ()), "attention")
