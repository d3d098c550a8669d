# SPDX-License-Identifier: Apache-2.0
"""Attention block by block, for queries that choose for themselves: right, bounded in memory, and of known size."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hylora_eval.runtime.memory import peak_memory
from hylora_kernels import SequenceLayout
from hylora_kernels import span_attention as span
from hylora_kernels.torch_backend import flash, pairs
from tests.kernels.inputs import assert_backends_agree, output_and_gradients, random_inputs
from tests.tolerances import assert_close

TOKEN = {"selection": "token", "block_size": 8, "top_k": 3, "chunk_size": 16}
PACKED = SequenceLayout(3, 90, ((0, 3, 80), (1, 0, 17), (1, 17, 73), (2, 0, 17), (2, 17, 73)))
HEADS = pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (3, 1)])


@pytest.fixture
def few_at_a_time(monkeypatch):
    """Parts of a few pairs, and of those a few gathered at a time."""
    monkeypatch.setattr(pairs, "_PAIRS", 1 << 10)
    monkeypatch.setattr(pairs, "_SLICE", 1 << 6)
    monkeypatch.setattr(pairs, "_ROWS", 5)


@HEADS
@pytest.mark.parametrize("summary", ["mean_std", "min_max", "gaussian", "representatives", "attention"])
def test_gradients_of_each_rule_are_the_references(summary, heads, kv_heads, few_at_a_time):
    assert_backends_agree(span, random_inputs(3, heads, kv_heads, 90), layout=PACKED, summary=summary, **TOKEN)


@HEADS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_near_float64(dtype, heads, kv_heads, few_at_a_time):
    options = {**TOKEN, "retrieval": "random", "layout": PACKED}  # the same blocks in every dtype
    inputs = random_inputs(3, heads, kv_heads, 90, dtype=dtype)
    expected = output_and_gradients(span, [x.double() for x in inputs], backend="reference", **options)
    for a, e in zip(output_and_gradients(span, inputs, **options), expected, strict=True):
        assert_close(a, e, dtype)


@pytest.mark.parametrize("length", [16, 33, 47, 48, 65])
def test_pairs_of_small_groups_of_queries(length):
    """Two queries by six heads: fewer rows than a block of 16 has; the last group may be shorter."""
    options = {"selection": "causal", "query_group": 2, "block_size": 16, "chunk_size": 16, "top_k": 2}
    assert_backends_agree(span, random_inputs(2, 6, 1, length), **options)


def test_all_choose_one_block_and_most_blocks_nobody():
    """Keys that all queries like: one block fills many tiles, others have none."""
    query, key, value = random_inputs(1, 2, 1, 200)
    query = query.abs()
    key[:, :, 40:48] = 9
    assert_backends_agree(span, (query, key, value), **{**TOKEN, "top_k": 1, "summary": "mean_key"})


def test_what_is_not_a_number_stays_in_its_row():
    inputs = random_inputs(2, 2, 2, 90, dtype=torch.float32)
    expected = output_and_gradients(span, inputs, **TOKEN)
    for x in inputs:
        x[0] = float("nan")
    for a, e in zip(output_and_gradients(span, inputs, **TOKEN), expected, strict=True):
        assert torch.equal(a[1], e[1])


def test_repeats_bit_for_bit():
    inputs = random_inputs(2, 4, 2, 90, dtype=torch.float32)
    first, second = (output_and_gradients(span, inputs, **TOKEN) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads):
    inputs = random_inputs(2, 4, 2, 90, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    for number in (1, threads):
        torch.set_num_threads(number)
        found.append(output_and_gradients(span, inputs, **TOKEN))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_memory_holds_no_output_for_each_pair(monkeypatch):
    length, top_k, head_dim = 2048, 32, 64
    monkeypatch.setattr(pairs, "_PAIRS", 1 << 18)
    inputs = random_inputs(1, 2, 2, length, head_dim, dtype=torch.float32)
    options = {"selection": "token", "block_size": 16, "top_k": top_k, "chunk_size": 256, "summary": "mean_std"}
    peak = peak_memory(lambda: lambda: output_and_gradients(span, inputs, **options), torch.device("cpu"))
    assert peak < 4 * inputs[0].shape[1] * length * top_k * head_dim


def test_plain_operations_take_many_problems_at_a_time(monkeypatch):
    """As on devices without the fused kernel."""
    for name in ("forward", "backward"):
        monkeypatch.setattr(pairs, f"flash_{name}", getattr(flash, f"math_{name}"))
    monkeypatch.setattr(flash, "_SCORES", 1 << 10)
    assert_backends_agree(span, random_inputs(2, 4, 2, 90), **TOKEN)


def test_tensors_without_storage_have_a_size():
    """As steps are planned: nothing may hang on how many choose which block."""
    with FakeTensorMode():
        query, key, value = (torch.empty(1, n, 200, 8, requires_grad=True) for n in (4, 2, 2))
        output = span(query, key, value, **TOKEN)
        output.sum().backward()
    assert output.shape == query.shape
    assert key.grad.shape == key.shape
