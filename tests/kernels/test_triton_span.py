# SPDX-License-Identifier: Apache-2.0
"""Span-expanded attention by Triton from end to end: the reference's function, and its properties.

Without a GPU the kernels run in Triton's interpreter, hence the tiny shapes.
"""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, select_blocks, span_attention
from hylora_kernels.options import TWO_VECTORS
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.tolerances import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPAN = {"block_size": 16, "top_k": 2, "chunk_size": 32}
MODES = {
    "chunk": SPAN,
    "groups": {**SPAN, "selection": "causal", "query_group": 16},
    "tokens": {**SPAN, "selection": "token"},
    "long chunks": {**SPAN, "chunk_size": 66, "top_k": 3},
    "short last block": {**SPAN, "chunk_size": 40},
}
LAYOUTS = {
    "dense": None,
    "padded and packed": SequenceLayout(2, 70, ((0, 5, 62), (1, 0, 25), (1, 25, 40))),
}
# The interpreter takes about a second for each.
SOME_MODES = [mode if mode in ("chunk", "tokens") else pytest.param(mode, marks=pytest.mark.slow) for mode in MODES]
slow = pytest.mark.slow


def inputs(batch=1, length=70, heads=4, kv_heads=2, head_dim=16, dtype=torch.float32, seed=0):
    tensors = random_inputs(batch, heads, kv_heads, length, head_dim, dtype, seed)
    # In memory as transformers' models have them: tokens before heads.
    return [x.transpose(1, 2).contiguous().transpose(1, 2).to(DEVICE) for x in tensors]


def assert_same_function(tensors, **options):
    """Triton's output and gradients are the reference's, on values that the dtype can hold."""
    actual = output_and_gradients(span_attention, tensors, backend="triton", **options)
    expected = output_and_gradients(span_attention, [x.double() for x in tensors], backend="reference", **options)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a.double(), e, a.dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", SOME_MODES)
def test_it_is_the_references_function(mode, layout):
    layout = LAYOUTS[layout]
    assert_same_function(inputs(batch=2 if layout else 1), layout=layout, **MODES[mode])


@pytest.mark.parametrize("options", [{"retrieval": "random", "seed": 3}, {"retrieval": "none"}, {"top_k": 0}], ids=str)
@pytest.mark.parametrize("mode", ["chunk", pytest.param("tokens", marks=slow)])
def test_controls(mode, options):
    assert_same_function(inputs(), **{**MODES[mode], **options})


@pytest.mark.parametrize("summary", ["landmark", "mean_key", *TWO_VECTORS])
@pytest.mark.parametrize("mode", ["chunk", "tokens"])
@slow
def test_other_summaries(mode, summary):
    assert_same_function(inputs(), summary=summary, **MODES[mode])


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(3, 1, 24), pytest.param(2, 2, 32, marks=slow), pytest.param(4, 1, 80, marks=slow)],
)
def test_heads_and_their_dimension(heads, kv_heads, head_dim):
    assert_same_function(inputs(heads=heads, kv_heads=kv_heads, head_dim=head_dim), **SPAN)


@pytest.mark.parametrize("mode", ["chunk", "tokens"])
def test_softcap(mode):
    assert_same_function(inputs(), softcap=1.5, **MODES[mode])


@pytest.mark.parametrize("length", [1, 33, *(pytest.param(n, marks=slow) for n in (31, 32, 65))])
def test_odd_lengths(length):
    assert_same_function(inputs(length=length), **SPAN)


HALVES = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mode", ["chunk", pytest.param("tokens", marks=slow)])
def test_half_precision(mode, dtype):
    # Near ties may be ranked otherwise than in float64, so that nothing is left to choose: every block is retrieved.
    assert_same_function(inputs(dtype=dtype), **{**MODES[mode], "top_k": 4})


@pytest.mark.parametrize("mode", SOME_MODES)
def test_it_retrieves_what_the_reference_does(mode):
    layout = LAYOUTS["padded and packed"]
    tensors = inputs(batch=2)
    actual = select_blocks(*tensors, layout=layout, backend="triton", **MODES[mode])
    expected = select_blocks(*tensors, layout=layout, backend="reference", **MODES[mode])
    assert len(actual) == len(expected)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def triton(tensors, **options):
    return span_attention(*tensors, backend="triton", **{**SPAN, **options})


def test_all_blocks_make_full_attention():
    query, key, value = inputs(length=96)
    full = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(triton((query, key, value), top_k=4), full, atol=2e-5, rtol=2e-5)


def test_packed_and_padded_sequences_are_what_they_are_alone():
    tensors = inputs(batch=2)
    layout = LAYOUTS["padded and packed"]
    together = triton(tensors, layout=layout)
    padding = torch.ones(2, 70, dtype=torch.bool)
    for row, start, length in layout.sequences:
        alone = triton([x[row : row + 1, :, start : start + length] for x in tensors])
        torch.testing.assert_close(together[row : row + 1, :, start : start + length], alone, atol=1e-6, rtol=1e-6)
        padding[row, start : start + length] = False
    assert (together.transpose(1, 2)[padding] == 0).all()


@pytest.mark.slow
def test_contents_of_padding_are_never_read():
    layout = LAYOUTS["padded and packed"]
    clean, poisoned = inputs(batch=2), inputs(batch=2)
    for x in poisoned:
        x[0, :, :5] = x[0, :, 67:] = x[1, :, 65:] = float("nan")
    results = [
        output_and_gradients(span_attention, x, layout=layout, backend="triton", **SPAN) for x in (clean, poisoned)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("mode", [pytest.param("groups", marks=slow), "tokens"])
def test_causal_selection_never_looks_ahead(mode):
    before = triton(inputs(), **MODES[mode])
    for position in (69, 45):
        changed = inputs()
        for x in changed:
            x[:, :, position] += 1
        after = triton(changed, **MODES[mode])
        assert torch.equal(after[:, :, :position], before[:, :, :position])
        assert (after[:, :, position] - before[:, :, position]).abs().max() > 1e-2


def test_a_chunks_choice_looks_ahead_to_its_end_and_no_further():
    before, changed = triton(inputs()), inputs()
    for x in changed:
        x[:, :, 69] += 3
    after = triton(changed)
    assert torch.equal(after[:, :, :64], before[:, :, :64])


@pytest.mark.parametrize("mode", [pytest.param("chunk", marks=slow), "tokens"])
def test_results_repeat_bit_for_bit(mode):
    runs = [output_and_gradients(span_attention, inputs(), backend="triton", **MODES[mode]) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
