# SPDX-License-Identifier: Apache-2.0
"""The flash primitives: every implementation gives the same attention, log-sum-exp and partial backward."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels.scoring import Scoring
from hylora_kernels.torch_backend.flash import flash_backward, flash_forward, math_backward, math_forward
from tests.kernels.inputs import random_inputs
from tests.tolerances import assert_close

SCORING = Scoring(0.3)


def problem(causal, dtype=torch.float64):
    query = random_inputs(2, 3, 3, 9, dtype=dtype)[0]
    _, key, value = random_inputs(2, 3, 3, 9 if causal else 5, dtype=dtype, seed=1)
    return query, key, value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_plain_operations_equal_the_fused_kernel(causal, dtype):
    inputs = problem(causal, dtype)
    grad = random_inputs(2, 3, 3, 9, dtype=dtype, seed=2)[0]
    output, lse = flash_forward(*inputs, causal, SCORING)
    for a, e in zip(math_forward(*inputs, causal, SCORING), (output, lse), strict=True):
        assert_close(a, e, dtype)
    expected = flash_backward(grad, *inputs, output, lse, causal, SCORING)
    for a, e in zip(math_backward(grad, *inputs, output, lse, causal, SCORING), expected, strict=True):
        assert_close(a, e, dtype)


@pytest.mark.parametrize("forward", [flash_forward, math_forward])
@pytest.mark.parametrize("causal", [False, True])
def test_log_sum_exp(forward, causal):
    query, key, value = problem(causal)
    scores = query @ key.mT * SCORING.scale
    if causal:
        scores = scores.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), float("-inf"))
    output, lse = forward(query, key, value, causal, SCORING)
    assert_close(lse, scores.logsumexp(-1))
    assert_close(output, scores.softmax(-1) @ value)


@pytest.mark.parametrize("backward", [flash_backward, math_backward])
def test_shares_of_parts_add_up(backward):
    """Given the whole softmax's output and log-sum-exp, the backwards of two halves of the keys sum to the whole."""
    query, key, value = problem(causal=False)
    grad = random_inputs(2, 3, 3, 9, seed=2)[0]
    output, lse = flash_forward(query, key, value, False, SCORING)
    whole = flash_backward(grad, query, key, value, output, lse, False, SCORING)
    shares = [
        backward(grad, query, key[:, :, at], value[:, :, at], output, lse, False, SCORING)
        for at in (slice(0, 2), slice(2, 5))
    ]
    assert_close(shares[0][0] + shares[1][0], whole[0])
    assert_close(torch.cat([shares[0][1], shares[1][1]], dim=2), whole[1])
    assert_close(torch.cat([shares[0][2], shares[1][2]], dim=2), whole[2])
