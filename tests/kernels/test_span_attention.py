# SPDX-License-Identifier: Apache-2.0
"""Span-expanded attention: the torch backend against the reference, and both against what they promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from hylora_kernels import SequenceLayout, torch_backend
from hylora_kernels import span_attention as span
from hylora_kernels.options import SUMMARIES, SUMMARY_DTYPES
from tests.kernels.inputs import (
    assert_backends_agree,
    masked_attention,
    output_and_gradients,
    random_inputs,
)
from tests.tolerances import assert_close

SMALL = {"block_size": 4, "top_k": 3, "chunk_size": 16, "query_group": 4}
HEADS = pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1)])
SELECTIONS = pytest.mark.parametrize(
    ("selection", "query_group"), [("chunk", 4), ("token", 4), ("causal", 4), ("causal", 16), ("causal", 1)]
)
BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch"])
LAYOUTS = {
    "left": SequenceLayout(3, 50, ((0, 10, 40), (1, 0, 50), (2, 49, 1))),
    "right": SequenceLayout(3, 50, ((0, 0, 31), (1, 0, 33), (2, 0, 33))),
    "both, and a row of padding": SequenceLayout(3, 50, ((0, 5, 37), (2, 1, 48))),
    "packed": SequenceLayout(3, 50, ((0, 0, 17), (0, 17, 33), (1, 0, 17), (1, 17, 33), (2, 3, 1), (2, 4, 46))),
}


@HEADS
@SELECTIONS
@pytest.mark.parametrize("length", [1, 3, 15, 16, 17, 31, 33, 64, 70])
def test_agrees_with_the_reference(length, selection, query_group, heads, kv_heads):
    options = {**SMALL, "selection": selection, "query_group": query_group}
    assert_backends_agree(span, random_inputs(2, heads, kv_heads, length), **options)


@HEADS
@SELECTIONS
@pytest.mark.parametrize(
    ("retrieval", "summary"),
    [*(("relevance", summary) for summary in SUMMARIES[1:]), ("random", "attention"), ("none", "attention")],
)
def test_every_retrieval_agrees_with_the_reference(retrieval, summary, selection, query_group, heads, kv_heads):
    options = {"retrieval": retrieval, "summary": summary, "selection": selection, "query_group": query_group}
    assert_backends_agree(span, random_inputs(2, heads, kv_heads, 45), **{**SMALL, **options})


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@SELECTIONS
@BACKENDS
def test_every_sequence_is_as_if_alone(layout, selection, query_group, backend):
    options = {**SMALL, "selection": selection, "query_group": query_group, "backend": backend}
    inputs = random_inputs(layout.batch, 4, 2, layout.length)
    grad = random_inputs(layout.batch, 4, 2, layout.length, seed=1)[0]
    real = torch.zeros(layout.batch, layout.length, dtype=torch.bool)
    for row, start, length in layout.sequences:
        real[row, start : start + length] = True
    poisoned = [x.masked_fill(~real[:, None, :, None], float("nan")) for x in (*inputs, grad)]
    together = output_and_gradients(span, poisoned[:3], poisoned[3], layout=layout, **options)
    for row, start, length in layout.sequences:
        cut = [x[row : row + 1, :, start : start + length] for x in (*inputs, grad)]
        alone = output_and_gradients(span, cut[:3], cut[3], **options)
        for t, a in zip(together, alone, strict=True):
            assert_close(t[row : row + 1, :, start : start + length], a)
    for x in together:
        assert (x.movedim(1, 3)[~real] == 0).all()


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 40, 64])
def test_one_chunk_is_full_attention(length, dtype, backend):
    inputs = random_inputs(2, 4, 2, length, dtype=dtype)
    expected = scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
    actual = span(*inputs, chunk_size=64, backend=backend)
    if backend == "torch":
        assert torch.equal(actual, expected)
    else:
        assert_close(actual, expected)


@BACKENDS
@SELECTIONS
@pytest.mark.parametrize("block_size", [4, 5])
def test_enough_blocks_is_attention_to_all_candidates_and_the_chunk(block_size, selection, query_group, backend):
    length, chunk = 70, 16
    inputs = random_inputs(1, 4, 2, length)
    position = torch.arange(length)
    chunk_start = position // chunk * chunk
    complete = chunk_start // block_size * block_size
    mask = (position < complete[:, None]) | ((position >= chunk_start[:, None]) & (position <= position[:, None]))
    assert mask.equal(torch.ones_like(mask).tril()) == (block_size == 4)  # S divides M: full attention
    actual = span(
        *inputs,
        block_size=block_size,
        top_k=99,
        chunk_size=chunk,
        selection=selection,
        query_group=query_group,
        backend=backend,
    )
    assert_close(actual, masked_attention(*inputs, mask))


@BACKENDS
@pytest.mark.parametrize("choice", [{"selection": "token"}, {"selection": "causal", "query_group": 4}], ids=str)
@pytest.mark.parametrize("summary", ["attention", "mean_std", "representatives"])
@pytest.mark.parametrize("changed", [1, 17, 34, 63])
def test_no_choice_but_a_chunks_sees_the_future(changed, summary, choice, backend):
    options = {**SMALL, "top_k": 1, "backend": backend, "summary": summary, **choice}
    inputs = random_inputs(1, 4, 2, 64)
    others = [x.clone() for x in inputs]
    for x, noise in zip(others, random_inputs(1, 4, 2, 64, seed=1), strict=True):
        x[:, :, changed:] = 5 * noise[:, :, changed:]
    before, after = span(*inputs, **options), span(*others, **options)
    assert torch.equal(before[:, :, :changed], after[:, :, :changed])
    assert not torch.equal(before[:, :, changed:], after[:, :, changed:])


@BACKENDS
def test_chunk_selection_sees_the_future_within_its_chunk_only(backend):
    inputs = random_inputs(1, 4, 2, 64)
    query = inputs[0].clone()
    query[:, :, 47] *= -20  # the last query of the third chunk
    before = span(*inputs, **SMALL, backend=backend)
    after = span(query, *inputs[1:], **SMALL, backend=backend)
    changed = (before != after).any(dim=3).any(dim=1)[0]
    assert not changed[:32].any()
    assert changed[32:47].any()
    assert not changed[48:].any()


def test_gradcheck():
    inputs = [x.requires_grad_() for x in random_inputs(1, 2, 1, 14, 3)]
    layout = SequenceLayout(1, 14, ((0, 1, 12),))
    # Random retrieval: the choice must not move while the inputs do.
    options = {"block_size": 2, "top_k": 2, "chunk_size": 5, "retrieval": "random", "layout": layout}
    assert torch.autograd.gradcheck(lambda *x: span(*x, **options), inputs)


def test_second_derivatives_are_refused():
    query, key, value = (x.requires_grad_() for x in random_inputs(1, 2, 2, 40))
    (grad,) = torch.autograd.grad(span(query, key, value, **SMALL).square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_the_choice_carries_no_gradient():
    query, key, value = random_inputs(1, 2, 2, 48)
    key.requires_grad_()
    output = span(query, key, value, **SMALL, retrieval="none")
    output[:, :, :16].sum().backward()
    assert (key.grad[:, :, 16:] == 0).all()
    key.grad = None
    # Blocks never retrieved by anyone get no gradient from later chunks, though all had a summary and a score.
    span(query, key, value, **{**SMALL, "top_k": 1})[:, :, 32:].sum().backward()
    untouched = (key.grad[0, :, :32].unflatten(1, (8, 4)) == 0).all(dim=3).all(dim=2).sum(dim=1)
    assert (untouched == 7).all()


@SELECTIONS
def test_slices_of_gathered_blocks_change_nothing(monkeypatch, selection, query_group):
    options = {**SMALL, "selection": selection, "query_group": query_group}
    inputs = random_inputs(2, 4, 2, 70)
    expected = output_and_gradients(span, inputs, **options)
    monkeypatch.setattr(torch_backend, "_GATHER", 1)
    for a, e in zip(output_and_gradients(span, inputs, **options), expected, strict=True):
        assert_close(a, e)


def test_repeats_bit_for_bit():
    inputs = random_inputs(2, 4, 2, 70, dtype=torch.float32)
    options = {**SMALL, "selection": "causal"}
    first, second = (output_and_gradients(span, inputs, **options) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@HEADS
def test_low_precision_stays_near_float64(heads, kv_heads, dtype):
    options = {**SMALL, "retrieval": "random"}  # the same blocks in every dtype
    inputs = random_inputs(2, heads, kv_heads, 70, dtype=dtype)
    expected = output_and_gradients(span, [x.double() for x in inputs], backend="reference", **options)
    for backend in ("reference", "torch"):
        actual = output_and_gradients(span, inputs, backend=backend, **options)
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == dtype
            assert_close(a, e, dtype)


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_heads_last_in_memory(kv_heads):
    """Models hand over transposed views; the gradient of a sum is an expanded scalar."""
    inputs = random_inputs(2, 4, kv_heads, 45)
    views = [x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs]
    leaves = [x.clone(memory_format=torch.contiguous_format).requires_grad_() for x in inputs]
    output, expected = span(*views, **SMALL), span(*leaves, **SMALL)
    assert_close(output, expected)
    for a, e in zip(
        torch.autograd.grad(output.sum(), views), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        assert_close(a, e)


def test_head_dimension_last_but_not_dense():
    query, key, value = (x.mT.contiguous().mT for x in random_inputs(1, 2, 2, 45))
    assert query.stride(-1) != 1
    assert_backends_agree(span, (query, key, value), **SMALL)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_equals_plain(use_reentrant):
    inputs = random_inputs(1, 4, 2, 45)

    def checkpointed(*leaves):
        return checkpoint(lambda *x: span(*x, **SMALL), *leaves, use_reentrant=use_reentrant)

    plain = output_and_gradients(span, inputs, **SMALL)
    for a, e in zip(output_and_gradients(checkpointed, inputs), plain, strict=True):
        assert torch.equal(a, e)


@BACKENDS
@pytest.mark.parametrize("length", [10, 45])
def test_autocast_casts_the_inputs_and_nothing_else(length, backend):
    query, key, value = random_inputs(1, 4, 2, length, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        actual = span(query, key, value.bfloat16(), **SMALL, backend=backend)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, span(query.bfloat16(), key.bfloat16(), value.bfloat16(), **SMALL, backend=backend))


def test_scale_is_the_callers():
    query, key, value = random_inputs(1, 2, 2, 45)
    for scale in (0.1, 100.0):  # the latter would overflow an exponential that is not taken relative to the largest
        assert_backends_agree(span, (query, key, value), scale=scale, **SMALL)
    assert_close(span(query, key, value, **SMALL), span(query, key, value, scale=8**-0.5, **SMALL))


@BACKENDS
def test_inference_mode_and_empty_input(backend):
    with torch.inference_mode():
        assert span(*random_inputs(1, 4, 2, 45), **SMALL, backend=backend).shape == (1, 4, 45, 8)
    for shape in ((0, 5), (2, 0)):
        inputs = random_inputs(shape[0], 4, 2, shape[1])
        assert span(*inputs, **SMALL, backend=backend).shape == inputs[0].shape


@st.composite
def problems(draw):
    length = draw(st.integers(1, 40))
    rows = []
    for row in range(draw(st.integers(1, 3))):
        cuts = sorted(draw(st.sets(st.integers(0, length), max_size=4)))
        rows += [(row, left, right - left) for left, right in zip(cuts, cuts[1:], strict=False)]
    query_group = draw(st.integers(1, 4))
    chunk_size = query_group * draw(st.integers(1, 4))
    options = {
        "layout": SequenceLayout(row + 1, length, tuple(rows)),
        "block_size": draw(st.integers(1, chunk_size)),
        "top_k": draw(st.integers(0, 4)),
        "chunk_size": chunk_size,
        "selection": draw(st.sampled_from(["chunk", "token", "causal"])),
        "query_group": query_group,
        "retrieval": draw(st.sampled_from(["relevance", "random", "none"])),
        "summary": draw(st.sampled_from(SUMMARIES)),
        "summary_dtype": draw(st.sampled_from(SUMMARY_DTYPES)),
    }
    options["representatives"] = draw(st.integers(1, options["block_size"]))
    if options["selection"] == "chunk":
        options["pooling"] = draw(st.sampled_from(["sum", "max"]))
    return draw(st.sampled_from([(1, 1), (2, 1), (4, 2)])), options


@given(problems())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_problem_agrees_with_the_reference(problem):
    heads, options = problem
    layout = options["layout"]
    assert_backends_agree(span, random_inputs(layout.batch, *heads, layout.length, 4), **options)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@HEADS
def test_cuda(heads, kv_heads, dtype):
    inputs = random_inputs(2, heads, kv_heads, 70, dtype=dtype)
    options = {**SMALL, "retrieval": "random", "layout": SequenceLayout(2, 70, ((0, 0, 70), (1, 3, 40), (1, 43, 20)))}
    expected = output_and_gradients(span, [x.double() for x in inputs], backend="reference", **options)
    actual = output_and_gradients(span, [x.cuda() for x in inputs], **options)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a.cpu(), e, dtype)
