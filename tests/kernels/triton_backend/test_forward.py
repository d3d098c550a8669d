# SPDX-License-Identifier: Apache-2.0
"""The forward kernel against explicit masks, for given blocks."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout
from hylora_kernels.options import SpanOptions
from hylora_kernels.reference import span_mask
from hylora_kernels.scoring import Scoring
from hylora_kernels.triton_backend import pairs
from hylora_kernels.triton_backend.forward import attention_forward
from hylora_kernels.triton_backend.launch import Launch, forced
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.inputs import random_inputs
from tests.kernels.triton_backend.choices import random_choice
from tests.tolerances import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Launch(block_m=32, block_n=64, num_warps=4, num_stages=2)
# selection, query_group, chunk_size: units that fill a tile, small ones, single tokens
CHUNK, UNITS, GROUPS, TOKENS = ("chunk", 1, 80), ("causal", 40, 80), ("causal", 5, 75), ("token", 1, 75)
SELECTIONS = pytest.mark.parametrize("selection", [CHUNK, TOKENS], ids=["chunk", "tokens"])
ALL_SELECTIONS = pytest.mark.parametrize(
    "selection", [CHUNK, UNITS, GROUPS, TOKENS], ids=["chunk", "units", "groups", "tokens"]
)


def options_of(selection=CHUNK, block_size=16, top_k=3):
    return SpanOptions(block_size, top_k, selection[2], *selection[:2], "relevance", "attention", 0)


def expected_attention(query, key, value, layout, options, blocks, scale, softcap=None):
    """Output and log-sum-exp under `reference.span_mask`, in float64; zeros and -inf at padded positions."""
    output, lse = query.double().zero_(), query[..., 0].double().fill_(float("-inf"))
    first = 0
    for row, start, length in layout.sequences:
        at = slice(start, start + length)
        units = blocks[:, first : first + options.units(length)]
        first += options.units(length)
        q, k, v = (x[row, :, at].double() for x in (query, key, value))
        groups = q.shape[0] // k.shape[0]
        k, v, mask = (
            x.repeat_interleave(groups, dim=0) for x in (k, v, span_mask(length, units, options).to(q.device))
        )
        scores = q @ k.mT * scale
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        scores.masked_fill_(~mask, float("-inf"))
        output[row, :, at] = scores.softmax(dim=-1) @ v
        lse[row, :, at] = scores.logsumexp(dim=-1)
    return output, lse


def check(inputs, layout, options, blocks=None, scale=0.3, launch=SMALL, softcap=None):
    query, key, value = inputs = [x.to(DEVICE) for x in inputs]
    if blocks is None:
        blocks = random_choice(key.shape[1], layout, options)
    expected = expected_attention(*inputs, layout, options, blocks, scale, softcap)
    for x in inputs:  # after the expectation is computed: contents of padded positions must not matter
        x.masked_fill_(padding(layout)[:, None, :, None], float("nan"))
    tables = span_tables(layout, options, torch.device(DEVICE))
    launches = dict.fromkeys(("forward", "forward_pairs", "merge_slots"), launch)
    with forced(**launches):
        blocks, scoring = blocks.to(DEVICE), Scoring(scale, softcap)
        output, lse = attention_forward(*inputs, blocks, tables, scoring, options.block_size)
    assert (output.dtype, output.shape, lse.dtype) == (query.dtype, query.shape, torch.float32)
    assert_close(output, expected[0].to(output.dtype))
    assert_close(lse, expected[1].float(), torch.float32)
    padded = padding(layout)[:, None].expand_as(lse)
    assert not output[padded].any() and (lse[padded] == float("-inf")).all()
    return output


def padding(layout):
    padded = torch.ones(layout.batch, layout.length, dtype=torch.bool, device=DEVICE)
    for row, start, length in layout.sequences:
        padded[row, start : start + length] = False
    return padded


@ALL_SELECTIONS
@pytest.mark.parametrize("length", [1, 31, 33, 65, 130, 250])
def test_lengths(length, selection):
    inputs = random_inputs(1, 1, 1, length, head_dim=16, dtype=torch.float32)
    check(inputs, SequenceLayout.dense(1, length), options_of(selection))


@ALL_SELECTIONS
def test_half_precision(selection):
    inputs = random_inputs(1, 2, 1, 170, head_dim=16, dtype=torch.float16)
    check(inputs, SequenceLayout.dense(1, 170), options_of(selection))


@SELECTIONS
@pytest.mark.parametrize(("heads", "kv_heads", "block_m"), [(4, 2, 16), (4, 2, 128), (3, 1, 128), (6, 1, 128)])
def test_heads_and_tiles_that_hold_several(heads, kv_heads, block_m, selection):
    inputs = random_inputs(1, heads, kv_heads, 90, head_dim=16, dtype=torch.float32)
    launch = Launch(block_m=block_m, block_n=64, num_warps=4, num_stages=2)
    check(inputs, SequenceLayout.dense(1, 90), options_of(selection), launch=launch)


@SELECTIONS
@pytest.mark.parametrize("head_dim", [8, 24, 72, 80, 96, 160])
def test_head_dims(head_dim, selection):
    """Of one piece, whole and padded, and of two."""
    inputs = random_inputs(1, 1, 1, 120, head_dim=head_dim, dtype=torch.float32)
    check(inputs, SequenceLayout(1, 120, ((0, 7, 108),)), options_of(selection))


@SELECTIONS
@pytest.mark.parametrize("block_size", [8, 16, 64])
@pytest.mark.parametrize("block_n", [16, 64])
def test_tiles_hold_parts_of_blocks_and_several(block_n, block_size, selection):
    inputs = random_inputs(1, 1, 1, 190, head_dim=16, dtype=torch.float32)
    launch = Launch(block_m=64, block_n=block_n, num_warps=4, num_stages=2)
    check(inputs, SequenceLayout.dense(1, 190), options_of(selection, block_size=block_size), launch=launch)


@ALL_SELECTIONS
def test_padded_and_packed_rows(selection):
    layout = SequenceLayout(4, 190, ((0, 17, 173), (1, 0, 90), (1, 90, 1), (1, 91, 99), (3, 0, 160)))
    check(random_inputs(4, 1, 1, 190, head_dim=16, dtype=torch.float32), layout, options_of(selection))


def test_no_sequences():
    check(random_inputs(2, 2, 1, 5, head_dim=16, dtype=torch.float32), SequenceLayout(2, 5, ()), options_of())


@SELECTIONS
def test_strided_memory_is_read_and_written_as_it_lies(selection):
    length, layout = 90, SequenceLayout.dense(2, 90)
    fused = torch.randn(2, length, 4, 16, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    query = fused[:, :2].transpose(1, 2).contiguous().transpose(1, 2)  # [B, L, H, D] memory
    output = check((query, fused[:, 2:3].clone(), fused[:, 3:]), layout, options_of(selection))
    assert output.stride() == query.stride()


@SELECTIONS
def test_without_retrieval(selection):
    inputs = random_inputs(1, 2, 1, 170, head_dim=16, dtype=torch.float32)
    check(inputs, SequenceLayout.dense(1, 170), options_of(selection, top_k=0))


@SELECTIONS
def test_more_asked_for_than_there_is(selection):
    inputs = random_inputs(1, 1, 1, 250, head_dim=16, dtype=torch.float32)
    check(inputs, SequenceLayout.dense(1, 250), options_of(selection, top_k=40))


def test_lists_longer_than_one_look():
    """The end of a list is found wherever it is."""
    layout, options = SequenceLayout.dense(1, 2304), options_of(("chunk", 1, 2240), top_k=144)
    blocks = torch.full((1, 2, 144), -1, dtype=torch.int32)
    blocks[0, 1, :133] = torch.arange(133)
    inputs = random_inputs(1, 1, 1, 2304, head_dim=16, dtype=torch.float32)
    size = (
        256 if DEVICE == "cpu" else 64
    )  # the interpreter takes as long for a small tile as for one no GPU could hold
    check(inputs, layout, options, blocks, launch=Launch(size, size, num_warps=4, num_stages=1))


def test_neighbours_of_one_tile_disagree_wholly():
    layout, options = SequenceLayout.dense(1, 138), options_of(("token", 1, 74), top_k=1)
    blocks = (torch.arange(138) % 5 - 1).to(torch.int32)[None, :, None]  # some read nothing, in the same tile
    blocks[:, :74] = -1
    check(random_inputs(1, 2, 1, 138, head_dim=16, dtype=torch.float32), layout, options, blocks)


@pytest.mark.parametrize("shift", [-40.0, 40.0])
def test_scores_far_from_zero(shift):
    query, key, value = random_inputs(1, 2, 1, 170, head_dim=16, dtype=torch.float32)
    query[..., 0], key[..., 0] = 1.0, shift
    key[:, :, :80, 0] *= 2  # retrieved ones the further
    check((query, key, value), SequenceLayout.dense(1, 170), options_of(TOKENS), scale=1.0)


@SELECTIONS
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # the interpreter's
def test_softcap(selection):
    """Of scores near 0, and of such as are all the bound, far beyond what an exponential holds."""
    query, key, value = random_inputs(1, 2, 1, 120, head_dim=24, dtype=torch.float32)
    query[:, 0] *= 1000
    check((query, key, value), SequenceLayout(1, 120, ((0, 7, 108),)), options_of(selection), softcap=2.0)


@pytest.mark.parametrize("numbers", [3000, 10000])
def test_slices_of_pairs_change_nothing(numbers, monkeypatch):
    """Of units of one KV head, and of KV heads."""
    inputs, options = random_inputs(1, 4, 2, 90, head_dim=16, dtype=torch.float32), options_of(("token", 1, 80))
    whole = check(inputs, SequenceLayout.dense(1, 90), options)
    monkeypatch.setattr(pairs, "_SLICE", numbers)
    assert torch.equal(check(inputs, SequenceLayout.dense(1, 90), options), whole)


def test_repeats_bit_for_bit():
    inputs, layout = random_inputs(1, 2, 1, 90, head_dim=16, dtype=torch.float16), SequenceLayout.dense(1, 90)
    first, second = (check(inputs, layout, options_of(TOKENS)) for _ in range(2))
    assert torch.equal(first, second)


def expected_by_chunks(query, key, value, options, blocks, scale):
    """Output and log-sum-exp of one dense sequence in float32, a chunk of queries at a time."""
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    output = torch.empty_like(query, dtype=torch.float32)
    lse = torch.empty_like(output[..., 0])
    unit = torch.arange(length, device=query.device) // options.unit_size
    for start in range(0, length, options.chunk_size):
        stop = min(start + options.chunk_size, length)
        position = torch.arange(stop, device=query.device)
        chosen = blocks[:, unit[start:stop]].long()  # [Hkv, rows, top_k]
        block = torch.zeros(*chosen.shape[:2], stop // options.block_size + 2, dtype=torch.bool, device=query.device)
        block.scatter_(2, torch.where(chosen < 0, block.shape[2] - 1, chosen), True)
        seen = block[:, :, position // options.block_size] & (position < start)
        seen |= (position >= start) & (position <= position[start:, None])
        for head in range(query.shape[1]):
            kv_head = head // groups
            scores = query[:, head, start:stop].float() @ key[:, kv_head, :stop].float().mT * scale
            scores.masked_fill_(~seen[kv_head], float("-inf"))
            output[:, head, start:stop] = scores.softmax(dim=-1) @ value[:, kv_head, :stop].float()
            lse[:, head, start:stop] = scores.logsumexp(dim=-1)
    return output, lse


def check_by_chunks(length, heads, kv_heads, head_dim, dtype, selection, block_size=32, top_k=8):
    options, layout = options_of(selection, block_size, top_k), SequenceLayout.dense(2, length)
    inputs = [x.to(DEVICE) for x in random_inputs(2, heads, kv_heads, length, head_dim, dtype)]
    blocks = random_choice(kv_heads, SequenceLayout.dense(1, length), options).to(DEVICE)
    tables, scale = span_tables(layout, options, torch.device(DEVICE)), head_dim**-0.5
    output, lse = attention_forward(*inputs, blocks.repeat(1, 2, 1), tables, Scoring(scale), block_size)
    expected, expected_lse = expected_by_chunks(*inputs, options, blocks, scale)
    assert_close(output, expected.to(dtype))
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-4)


def test_listed_launches():
    check_by_chunks(110, 2, 1, 16, torch.float32, ("causal", 8, 48), block_size=16, top_k=2)


@pytest.mark.gpu
@pytest.mark.parametrize("selection", [("chunk", 1, 1024), ("causal", 16, 1024), ("token", 1, 1024)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("head_dim", [64, 80, 128, 160, 256])
def test_listed_launches_of_a_gpu(head_dim, dtype, selection):
    check_by_chunks(4490, 4, 2, head_dim, dtype, selection)


@pytest.mark.gpu
@pytest.mark.parametrize("selection", [("chunk", 1, 4096), ("causal", 64, 2048), ("token", 1, 2048)])
@pytest.mark.parametrize(("length", "heads", "kv_heads"), [(8192, 6, 6), (32768, 8, 2)])
def test_long_sequences(length, heads, kv_heads, selection):
    check_by_chunks(length, heads, kv_heads, 128, torch.bfloat16, selection)


@pytest.mark.gpu
@pytest.mark.parametrize("block_size", [8, 16, 64, 128])
@pytest.mark.parametrize("selection", [("chunk", 1, 1000), ("causal", 10, 1000), ("token", 1, 1000)])
def test_block_sizes_on_a_gpu(selection, block_size):
    check_by_chunks(4490, 4, 1, 128, torch.bfloat16, selection, block_size=block_size)
