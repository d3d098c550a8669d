# SPDX-License-Identifier: Apache-2.0
"""The backward kernels against autograd through explicit masks, for given blocks."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout
from hylora_kernels.saved import Saved
from hylora_kernels.scoring import Scoring
from hylora_kernels.triton_backend import backward_retrieved, pairs
from hylora_kernels.triton_backend.backward import attention_backward
from hylora_kernels.triton_backend.forward import attention_forward
from hylora_kernels.triton_backend.launch import Launch, forced
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.inputs import random_inputs
from tests.kernels.triton_backend.choices import random_choice
from tests.kernels.triton_backend.test_forward import (
    ALL_SELECTIONS,
    DEVICE,
    SELECTIONS,
    TOKENS,
    expected_attention,
    options_of,
    padding,
)
from tests.tolerances import TOLERANCE

SMALL = Launch(block_m=32, block_n=32, num_warps=4, num_stages=2)


def check(inputs, layout, options, blocks=None, grad=None, scale=0.3, launch=SMALL, tolerance=None, softcap=None):
    """Gradients from the kernels, after a comparison with autograd's."""
    query, key, value = inputs = [x.to(DEVICE) for x in inputs]
    if blocks is None:
        blocks = random_choice(key.shape[1], layout, options)
    if grad is None:
        grad = torch.randn(query.shape, generator=torch.Generator().manual_seed(1)).to(query)
    grad = grad.to(DEVICE)
    leaves = [x.detach().requires_grad_() for x in inputs]
    output, lse = expected_attention(*leaves, layout, options, blocks, scale, softcap)
    expected = torch.autograd.grad(output, leaves, grad.double(), allow_unused=True)
    output, lse = output.detach().to(query.dtype), lse.detach().float()

    # After the expectation is computed: contents of padded positions must not matter.
    padded = padding(layout)
    if padded.any():
        grad = grad.clone()
        for x in (*inputs, grad, output):
            x.masked_fill_(padded[:, None, :, None], float("nan"))
        lse.masked_fill_(padded[:, None], float("nan"))
    tables = span_tables(layout, options, torch.device(DEVICE))
    kernels = ("backward_query", "backward_own", "backward_retrieved", "backward_pairs", "merge_slots")
    saved = Saved(*inputs, output, lse, blocks.to(DEVICE))
    with forced(**dict.fromkeys(kernels if launch else (), launch)):
        actual = attention_backward(grad, saved, tables, Scoring(scale, softcap), options.block_size)
    for x, a, e in zip(inputs, actual, expected, strict=True):
        assert (a.dtype, a.shape) == (x.dtype, x.shape)
        e = torch.zeros_like(a) if e is None else e.masked_fill(padded[:, None, :, None], 0)
        assert not a.movedim(1, 2)[padded].any()
        # A sum over many queries has an error in proportion to the largest of its kind.
        largest = max(1.0, float(e.abs().amax()))
        torch.testing.assert_close(a.double(), e.double(), atol=(tolerance or TOLERANCE[a.dtype]) * largest, rtol=0)
    return actual


@SELECTIONS
@pytest.mark.parametrize("length", [1, 31, 33, 65, 130])
def test_lengths(length, selection):
    inputs = random_inputs(1, 2, 1, length, head_dim=16, dtype=torch.float32)
    check(inputs, SequenceLayout.dense(1, length), options_of(selection))


@ALL_SELECTIONS
def test_half_precision(selection):
    inputs = random_inputs(1, 1, 1, 170, head_dim=16, dtype=torch.float16)
    check(inputs, SequenceLayout.dense(1, 170), options_of(selection))


@SELECTIONS
@pytest.mark.parametrize(("heads", "kv_heads", "block_m"), [(1, 1, 16), (4, 2, 128), (3, 1, 128)])
def test_heads_and_tiles_that_hold_several(heads, kv_heads, block_m, selection):
    inputs = random_inputs(1, heads, kv_heads, 100, head_dim=16, dtype=torch.float32)
    check(inputs, SequenceLayout.dense(1, 100), options_of(selection), launch=SMALL._replace(block_m=block_m))


@SELECTIONS
@pytest.mark.parametrize("head_dim", [8, 24, 72, 80, 96, 160])
def test_head_dims(head_dim, selection):
    inputs = random_inputs(1, 1, 1, 120, head_dim=head_dim, dtype=torch.float32)
    check(inputs, SequenceLayout(1, 120, ((0, 7, 108),)), options_of(selection))


@SELECTIONS
@pytest.mark.parametrize(("block_size", "block_n"), [(8, 16), (64, 16), (16, 64), (32, 64)])
def test_tiles_hold_parts_of_blocks_and_several(block_size, block_n, selection):
    inputs = random_inputs(1, 1, 1, 150, head_dim=16, dtype=torch.float32)
    options = options_of(selection, block_size=block_size)
    check(inputs, SequenceLayout.dense(1, 150), options, launch=SMALL._replace(block_n=block_n))


@ALL_SELECTIONS
def test_padded_and_packed_rows(selection):
    layout = SequenceLayout(3, 190, ((0, 17, 100), (1, 0, 90), (1, 90, 1), (1, 91, 99)))
    check(random_inputs(3, 1, 1, 190, head_dim=16, dtype=torch.float32), layout, options_of(selection))


def test_no_sequences():
    check(random_inputs(2, 2, 1, 5, head_dim=16, dtype=torch.float32), SequenceLayout(2, 5, ()), options_of())


@SELECTIONS
def test_strided_memory_is_read_and_written_as_it_lies(selection):
    """As `[B, L, H, D]`, and as slices of a fused projection."""
    fused = torch.randn(2, 100, 5, 16, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    query, grad = (fused[:, heads].transpose(1, 2).contiguous().transpose(1, 2) for heads in (slice(2), slice(1, 3)))
    inputs = (query, fused[:, 3:4], fused[:, 4:])
    gradients = check(inputs, SequenceLayout.dense(2, 100), options_of(selection), grad=grad)
    assert gradients[0].stride() == query.stride()


@pytest.mark.parametrize("form", ["one number", "one row"])
def test_expanded_gradients(form):
    inputs, layout = random_inputs(1, 2, 1, 90, head_dim=16, dtype=torch.float32), SequenceLayout.dense(1, 90)
    grad = torch.ones(()) if form == "one number" else torch.randn(16, generator=torch.Generator().manual_seed(2))
    check(inputs, layout, options_of(), grad=grad.expand(1, 2, 90, 16))


@SELECTIONS
def test_without_retrieval(selection):
    inputs = random_inputs(1, 2, 1, 130, head_dim=16, dtype=torch.float32)
    check(inputs, SequenceLayout.dense(1, 130), options_of(selection, top_k=0))


@SELECTIONS
def test_blocks_that_all_read_and_blocks_that_none_does(selection):
    layout, options = SequenceLayout.dense(1, 230), options_of(selection, top_k=1)
    units = options.units(230)
    blocks = torch.zeros(1, units, 1, dtype=torch.int32)
    blocks[:, [options.candidates(unit) == 0 for unit in range(units)]] = -1
    check(random_inputs(1, 1, 1, 230, head_dim=16, dtype=torch.float32), layout, options, blocks)


@pytest.mark.parametrize("share", [1, 8])
def test_long_lists_are_cut_into_runs(share, monkeypatch):
    """Of one reader and of three; lists of one run lie among them, and empty ones."""
    monkeypatch.setattr(backward_retrieved, "_RUN", share)
    layout, options = SequenceLayout(1, 260, ((0, 0, 190), (0, 195, 60))), options_of(("chunk", 1, 40), top_k=2)
    blocks = random_choice(1, layout, options)
    blocks[:, 1:5, 1] = torch.where(blocks[:, 1:5, 0] == 0, -1, 0)
    inputs = random_inputs(1, 1, 1, 260, head_dim=16, dtype=torch.float32)
    first, second = (check(inputs, layout, options, blocks) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_runs_are_added_up_before_they_are_rounded(monkeypatch):
    """Half precision gives the same to the last place, however lists are cut."""
    layout, options = SequenceLayout.dense(1, 190), options_of(("chunk", 1, 40), top_k=1)
    blocks = torch.zeros(1, options.units(190), 1, dtype=torch.int32)
    blocks[:, 0] = -1
    inputs = random_inputs(1, 1, 1, 190, head_dim=16, dtype=torch.float16)
    whole = check(inputs, layout, options, blocks)
    monkeypatch.setattr(backward_retrieved, "_RUN", 1)
    for cut, uncut in zip(check(inputs, layout, options, blocks), whole, strict=True):
        torch.testing.assert_close(cut, uncut, rtol=2**-10, atol=1e-5)


def test_sums_of_runs_take_at_most_a_quarter_of_the_queries(monkeypatch):
    """However little there is to retrieve; of a block that all read, runs as they ship are several."""
    seen, add = [], backward_retrieved.add_runs
    monkeypatch.setattr(
        backward_retrieved, "add_runs", lambda sums, *rest: seen.append(sums.shape) or add(sums, *rest)
    )
    layout, options = SequenceLayout.dense(1, 390), options_of(("chunk", 1, 32), block_size=8, top_k=1)
    blocks = torch.zeros(1, options.units(390), 1, dtype=torch.int32)
    blocks[:, 0] = -1
    inputs = random_inputs(1, 1, 1, 390, head_dim=8, dtype=torch.float32)
    check(inputs, layout, options, blocks)
    (runs, *of_run), of_values = seen
    assert of_values == (runs, *of_run) == (runs, 8, 8)
    assert runs >= 2 and 2 * 4 * runs * 8 * 8 <= 2 * inputs[0].numel() / 4


def test_neighbours_of_one_tile_disagree_wholly():
    layout, options = SequenceLayout.dense(1, 138), options_of(("token", 1, 74), top_k=1)
    blocks = (torch.arange(138) % 5 - 1).to(torch.int32)[None, :, None]  # some read nothing, in the same tile
    blocks[:, :74] = -1
    check(random_inputs(1, 1, 1, 138, head_dim=16, dtype=torch.float32), layout, options, blocks)


@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_far_from_zero(sign):
    """Where tiles are filled up the score is 0, whose weight may then be infinite; it must not be used."""
    query, key, value = random_inputs(1, 1, 1, 130, head_dim=16, dtype=torch.float32)
    query[..., 0], key[..., 0] = 14.0, sign * 14.0
    # Scores near 196 have an error of 1e-5 in float32.
    check((query, key, value), SequenceLayout.dense(1, 130), options_of(TOKENS), scale=1.0, tolerance=1e-3)


@SELECTIONS
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # the interpreter's
def test_softcap(selection):
    """Of scores near 0, and of such as are all the bound, far beyond what an exponential holds."""
    query, key, value = random_inputs(1, 2, 1, 120, head_dim=24, dtype=torch.float32)
    query[:, 0] *= 1000
    # The slope of the bound, 1 - tanh^2, has few digits where it is near 0, and large queries multiply it.
    layout = SequenceLayout(1, 120, ((0, 7, 108),))
    check((query, key, value), layout, options_of(selection), softcap=2.0, tolerance=1e-4)


@pytest.mark.parametrize("numbers", [4000, 15000])
def test_slices_of_pairs(numbers, monkeypatch):
    """Of units of one KV head, and of KV heads: gradients of keys add up over the former."""
    monkeypatch.setattr(pairs, "_SLICE", numbers)
    inputs = random_inputs(1, 4, 2, 130, head_dim=16, dtype=torch.float16)
    check(inputs, SequenceLayout.dense(1, 130), options_of(TOKENS))


@SELECTIONS
def test_repeats_bit_for_bit(selection):
    inputs, layout = random_inputs(1, 2, 1, 100, head_dim=16, dtype=torch.float16), SequenceLayout.dense(1, 100)
    first, second = (check(inputs, layout, options_of(selection)) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("selection", [("chunk", 1, 2048), ("causal", 16, 2000), ("token", 1, 2048)])
@pytest.mark.parametrize(
    ("length", "kv_heads", "head_dim"), [(8192, 2, 64), (8000, 6, 80), (16384, 3, 128), (5000, 1, 256)]
)
def test_real_sizes(length, kv_heads, head_dim, selection, dtype):
    """The launches that are shipped, against the same in float32."""
    layout, options = SequenceLayout.dense(1, length), options_of(selection, block_size=32, top_k=8)
    tables = span_tables(layout, options, torch.device(DEVICE))
    blocks = random_choice(kv_heads, layout, options).to(DEVICE)
    inputs = [x.to(DEVICE) for x in random_inputs(1, 6, kv_heads, length, head_dim, dtype)]
    grad = torch.randn_like(inputs[0])
    scoring, found = Scoring(head_dim**-0.5), []
    for width in (dtype, torch.float32):
        q, k, v, g = (x.to(width) for x in (*inputs, grad))
        output, lse = attention_forward(q, k, v, blocks, tables, scoring, options.block_size)
        saved = Saved(q, k, v, output, lse, blocks)
        found.append([attention_backward(g, saved, tables, scoring, options.block_size) for _ in range(2)])
    assert all(map(torch.equal, *found[0]))
    for actual, expected in zip(found[0][0], found[1][0], strict=True):
        error = (actual.float() - expected).norm() / expected.norm()
        assert error < {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("selection", [("chunk", 1, 2048), ("causal", 16, 2000), ("token", 1, 2048)])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_shipped_launches_in_float32(head_dim, selection):
    layout, options = SequenceLayout(1, 4500, ((0, 100, 4300),)), options_of(selection, block_size=32, top_k=8)
    check(random_inputs(1, 2, 1, 4500, head_dim, torch.float32), layout, options, launch=None)


def test_a_tile_beyond_the_padding_of_the_statistics_is_refused():
    layout, options = SequenceLayout.dense(1, 20), options_of(("chunk", 1, 16))
    with pytest.raises(ValueError, match="block_m=256 queries at a time.*block_m of up to 128"):
        check(random_inputs(1, 1, 1, 20, 16, torch.float32), layout, options, launch=SMALL._replace(block_m=256))
