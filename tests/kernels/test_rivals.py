# SPDX-License-Identifier: Apache-2.0
"""Sliding window and shifted sparse attention against explicit masks."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, shifted_sparse_attention, sliding_window_attention
from tests.kernels.inputs import assert_backends_agree, masked_attention, output_and_gradients, random_inputs
from tests.tolerances import assert_close

BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch"])
RIVALS = pytest.mark.parametrize(
    ("function", "options"),
    [(sliding_window_attention, {"window": 7}), (shifted_sparse_attention, {"group": 0.25})],
    ids=["window", "shifted"],
)


@BACKENDS
@pytest.mark.parametrize("length", [1, 6, 7, 8, 13, 14, 15, 40])
@pytest.mark.parametrize("window", [1, 2, 7, 100])
def test_window_is_its_mask(window, length, backend):
    inputs = random_inputs(2, 4, 2, length)
    i, j = torch.arange(length)[:, None], torch.arange(length)
    mask = (i - window < j) & (j <= i)
    expected = output_and_gradients(lambda *x: masked_attention(*x, mask), inputs)
    actual = output_and_gradients(sliding_window_attention, inputs, window=window, backend=backend)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


@BACKENDS
def test_shifted_groups_by_hand(backend):
    inputs = random_inputs(1, 2, 2, 10)
    plain = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    shifted = [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]
    mask = torch.zeros(2, 10, 10, dtype=torch.bool)
    for head, groups in enumerate((plain, shifted)):
        for group in groups:
            for i in group:
                mask[head, i, [j for j in group if j <= i]] = True
    expected = masked_attention(*inputs, mask)
    assert_close(shifted_sparse_attention(*inputs, group=4, backend=backend), expected)
    assert_close(shifted_sparse_attention(*inputs, group=0.39, backend=backend), expected)  # rounded up


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize("length", [1, 3, 31, 33, 40])
@pytest.mark.parametrize("group", [0.25, 0.3, 1.0, 1, 2, 5, 8, 100])
def test_shifted_agrees_with_the_reference(group, length, heads, kv_heads):
    assert_backends_agree(shifted_sparse_attention, random_inputs(2, heads, kv_heads, length), group=group)


@BACKENDS
@RIVALS
def test_the_future_does_not_matter(function, options, backend):
    inputs = random_inputs(1, 4, 2, 40)
    others = [x.clone() for x in inputs]
    for x in others:
        x[:, :, 23:] += 3
    before, after = (function(*x, **options, backend=backend) for x in (inputs, others))
    assert torch.equal(before[:, :, :23], after[:, :, :23])


@BACKENDS
@RIVALS
def test_every_sequence_is_as_if_alone(function, options, backend):
    layout = SequenceLayout(3, 40, ((0, 6, 30), (2, 0, 9), (2, 9, 31)))
    inputs = random_inputs(3, 4, 2, 40)
    grad = random_inputs(3, 4, 2, 40, seed=1)[0]
    real = torch.zeros(3, 40, dtype=torch.bool)
    for row, start, length in layout.sequences:
        real[row, start : start + length] = True
    poisoned = [x.masked_fill(~real[:, None, :, None], float("nan")) for x in (*inputs, grad)]
    together = output_and_gradients(function, poisoned[:3], poisoned[3], layout=layout, backend=backend, **options)
    for row, start, length in layout.sequences:
        cut = [x[row : row + 1, :, start : start + length] for x in (*inputs, grad)]
        alone = output_and_gradients(function, cut[:3], cut[3], backend=backend, **options)
        for t, a in zip(together, alone, strict=True):
            assert_close(t[row : row + 1, :, start : start + length], a)
    for x in together:
        assert (x.movedim(1, 3)[~real] == 0).all()


@RIVALS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_near_float64(function, options, dtype):
    inputs = random_inputs(2, 4, 2, 40, dtype=dtype)
    expected = output_and_gradients(function, [x.double() for x in inputs], backend="reference", **options)
    for a, e in zip(output_and_gradients(function, inputs, **options), expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, e, dtype)
