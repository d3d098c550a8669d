# SPDX-License-Identifier: Apache-2.0
"""The path of variable-length flash calls: its structure on plain operations, its calls on tensors without memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hylora_kernels import SequenceLayout, flash_backend, reference
from hylora_kernels.flash_backend import retrieved
from hylora_kernels.options import SpanOptions
from hylora_kernels.saved import Saved
from hylora_kernels.scoring import Scoring
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.tolerances import assert_close

SCORING = Scoring(0.3)
HEADS = pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1), (2, 1)])
LAYOUTS = {
    "dense": SequenceLayout.dense(2, 50),
    "ragged": SequenceLayout(3, 50, ((0, 10, 40), (2, 1, 16), (2, 17, 1), (2, 18, 30))),
    "empty": SequenceLayout(2, 50, ()),
}
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
SELECTIONS = [("chunk", 1), ("causal", 1), ("causal", 4), ("causal", 16)]


def span_options(selection="chunk", query_group=1, retrieval="relevance", top_k=3):
    return SpanOptions(4, top_k, 16, selection, query_group, retrieval, "attention", 0)


def expected(function, inputs, layout, grad, *settings):
    def call(query, key, value):
        return function(query, key, value, layout, *settings, SCORING)

    return output_and_gradients(call, inputs, grad)


def inputs_and_gradient(layout, heads, kv_heads):
    inputs = random_inputs(layout.batch, heads, kv_heads, layout.length)
    return inputs, random_inputs(layout.batch, heads, kv_heads, layout.length, seed=1)[0]


def assert_all_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


@HEADS
@LAYOUT
@pytest.mark.parametrize(("selection", "query_group"), SELECTIONS)
def test_span_attention_agrees_with_the_reference(layout, selection, query_group, heads, kv_heads, monkeypatch):
    monkeypatch.setattr(retrieved, "_GATHER", 300)  # several slices
    monkeypatch.setattr(retrieved, "_RUNS", 5)
    options = span_options(selection, query_group)
    inputs, grad = inputs_and_gradient(layout, heads, kv_heads)
    output, lse, blocks = flash_backend.span_forward(*inputs, layout, options, SCORING)
    grads = flash_backend.span_backward(grad, Saved(*inputs, output, lse, blocks), layout, options, SCORING)
    assert_all_close([output, *grads], expected(reference.span_attention, inputs, layout, grad, options))
    chosen = reference.select_blocks(*inputs, layout, options, SCORING.scale)
    for found, of_sequence in zip(blocks.split([b.shape[1] for b in chosen], dim=1), chosen, strict=True):
        assert torch.equal(found, of_sequence.int())


@pytest.mark.parametrize(("retrieval", "top_k"), [("none", 3), ("random", 3), ("relevance", 0), ("relevance", 50)])
def test_other_retrievals_agree_with_the_reference(retrieval, top_k):
    options, layout = span_options(retrieval=retrieval, top_k=top_k), LAYOUTS["ragged"]
    inputs, grad = inputs_and_gradient(layout, 4, 2)
    output, lse, blocks = flash_backend.span_forward(*inputs, layout, options, SCORING)
    grads = flash_backend.span_backward(grad, Saved(*inputs, output, lse, blocks), layout, options, SCORING)
    assert_all_close([output, *grads], expected(reference.span_attention, inputs, layout, grad, options))


@HEADS
@LAYOUT
@pytest.mark.parametrize("window", [1, 7, 16, 60])
def test_sliding_window_agrees_with_the_reference(layout, window, heads, kv_heads):
    inputs, grad = inputs_and_gradient(layout, heads, kv_heads)
    output, lse = flash_backend.sliding_window_forward(*inputs, layout, window, SCORING)
    grads = flash_backend.sliding_window_backward(grad, Saved(*inputs, output, lse), layout, window, SCORING)
    assert_all_close([output, *grads], expected(reference.sliding_window_attention, inputs, layout, grad, window))


@LAYOUT
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1), (1, 1), (6, 2), (10, 2)])
@pytest.mark.parametrize("group", [0.25, 1.0, 1, 7, 60])
def test_shifted_sparse_attention_agrees_with_the_reference(layout, group, heads, kv_heads):
    inputs, grad = inputs_and_gradient(layout, heads, kv_heads)
    output, lse = flash_backend.shifted_sparse_forward(*inputs, layout, group, SCORING)
    grads = flash_backend.shifted_sparse_backward(grad, Saved(*inputs, output, lse), layout, group, SCORING)
    assert_all_close([output, *grads], expected(reference.shifted_sparse_attention, inputs, layout, grad, group))


def test_groups_of_one_token_are_not_groups_of_the_whole_sequence():
    """1 and 1.0 are equal numbers, and different groups."""
    layout = SequenceLayout.dense(1, 12)
    inputs = random_inputs(1, 2, 2, 12)
    for group in (1.0, 1):
        found, _ = flash_backend.shifted_sparse_forward(*inputs, layout, group, SCORING)
        assert_close(found, reference.shifted_sparse_attention(*inputs, layout, group, SCORING))


@pytest.mark.parametrize(("gather", "runs"), [(8 * 4 * 8 * 5, 65535), (1 << 27, 14), (1 << 27, 1)])
def test_slices_are_bounded_and_hold_every_unit_that_retrieves(gather, runs, monkeypatch):
    monkeypatch.setattr(retrieved, "_GATHER", gather)
    monkeypatch.setattr(retrieved, "_RUNS", runs)
    layout, options = LAYOUTS["ragged"], span_options("causal", 4)
    slices = retrieved.slices_of(torch.empty(87, 8, 8), torch.empty(87, 2, 8), layout, options)
    assert len(slices) > 3
    # Sequences of 40, 16, 1 and 30 tokens; their first chunks retrieve nothing.
    assert torch.cat([part.queries for part in slices]).tolist() == [*range(16, 40), *range(57 + 16, 57 + 30)]
    most = max(1, min(gather // (8 * 4 * 8), runs // 2))
    for part in slices:
        assert len(part.slots) < most + options.top_k
        assert len(part.runs.queries) - 1 <= max(2, runs)
        assert part.runs.queries[-1] == 2 * len(part.queries)
        assert part.runs.keys[-1] == 2 * len(part.slots) * options.block_size


def test_layers_that_draw_their_own_seed_share_slices():
    queries, keys = torch.empty(100, 4, 8), torch.empty(100, 2, 8)
    drawn = [SpanOptions(4, 3, 16, retrieval="random", seed=seed) for seed in (1, 2)]
    first, second = (retrieved.slices_of(queries, keys, LAYOUTS["dense"], options) for options in drawn)
    assert first is second


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["span", "sliding_window", "shifted_sparse"])
def test_low_precision_stays_near_float64(attention, dtype):
    settings = {"span": span_options(retrieval="random"), "sliding_window": 7, "shifted_sparse": 0.25}[attention]
    forward, backward = (getattr(flash_backend, f"{attention}_{way}") for way in ("forward", "backward"))
    layout = LAYOUTS["ragged"]
    grad, *inputs = (x.to(dtype) for x in (random_inputs(3, 4, 2, 50, seed=1)[0], *random_inputs(3, 4, 2, 50)))
    output, *kept = forward(*inputs, layout, settings, SCORING)
    grads = backward(grad, Saved(*inputs, output, *kept), layout, settings, SCORING)
    definition = getattr(reference, f"{attention}_attention")
    exact = expected(definition, [x.double() for x in inputs], layout, grad.double(), settings)
    for a, e in zip([output, *grads], exact, strict=True):
        assert a.dtype == dtype
        assert_close(a, e, dtype)


class KernelPreconditions(TorchDispatchMode):
    """Refuses what the CUDA kernels refuse or misread, which torch's shape functions let pass."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._flash_attention_forward.default:
            self.check(*args[:7])
        elif function is torch.ops.aten._flash_attention_backward.default:
            grad, query, key, value, output, lse = args[:6]
            self.check(query, key, value, *args[6:10])
            assert grad.shape == output.shape == query.shape
            assert (lse.shape, lse.dtype, lse.is_contiguous()) == (query.shape[1::-1], torch.float32, True)
        return function(*args, **(kwargs or {}))

    @staticmethod
    def check(query, key, value, query_bounds, key_bounds, longest_query, longest_key):
        assert query.shape[1] % key.shape[1] == 0
        assert key.shape == value.shape
        assert query.shape[2] == key.shape[2]
        assert all(x.stride(-1) == 1 and x.dtype == torch.bfloat16 for x in (query, key, value))
        for bounds, longest, tokens in ((query_bounds, longest_query, query), (key_bounds, longest_key, key)):
            assert (bounds.dtype, bounds.is_contiguous()) == (torch.int32, True)
            assert 1 <= longest <= len(tokens)
        assert 1 < len(query_bounds) == len(key_bounds) <= 65536


@LAYOUT
@pytest.mark.parametrize("attention", ["span", "sliding_window", "shifted_sparse"])
def test_calls_of_flash_attention_are_well_formed(layout, attention):
    """torch's shape functions of the operators accept the calls, which needs no GPU."""
    settings = {"span": span_options(), "sliding_window": 7, "shifted_sparse": 0.25}[attention]
    forward, backward = (getattr(flash_backend, f"{attention}_{way}") for way in ("forward", "backward"))
    shapes = [(layout.batch, heads, layout.length, 64) for heads in (6, 2, 2)]
    inputs = [torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes]
    with KernelPreconditions():
        output, *kept = forward(*inputs, layout, settings, SCORING)
        grads = backward(torch.empty_like(output), Saved(*inputs, output, *kept), layout, settings, SCORING)
    assert (output.shape, output.dtype) == (inputs[0].shape, torch.bfloat16)
    assert kept[0].shape == inputs[0].shape[:3]
    assert kept[0].dtype == torch.float32
    assert [(x.shape, x.dtype) for x in grads] == [(x.shape, x.dtype) for x in inputs]


class Counting(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_sequences_within_a_chunk_cost_no_operations_of_their_own():
    """They are the case in which this backend is chosen, and rows are packed with many."""
    options, counts = span_options(), []
    for sequences in (2, 40):
        lengths = [7 + i % 3 for i in range(sequences)] + [40]
        layout = SequenceLayout.from_cu_seqlens(torch.tensor([0, *lengths]).cumsum(0))
        query = torch.empty(1, 4, layout.length, 64, dtype=torch.bfloat16, device="meta")
        inputs = (query, query[:, :2], query[:, :2])
        for _ in range(2):  # tables are made the first time
            with Counting() as operations:
                output, lse, blocks = flash_backend.span_forward(*inputs, layout, options, SCORING)
                flash_backend.span_backward(output, Saved(*inputs, output, lse, blocks), layout, options, SCORING)
        counts.append(operations.count)
        assert blocks.shape == (2, sequences + 3, 3)
    assert counts[0] == counts[1] > 10


def test_more_units_than_a_grid_is_wide():
    """One choice per token makes a run of every token and KV head."""
    layout, options = SequenceLayout.dense(1, 70000), SpanOptions(16, 1, 1024, "causal", 1, "random")
    inputs = [torch.empty(1, 1, 70000, 8, dtype=torch.bfloat16, device="meta") for _ in range(3)]
    with KernelPreconditions():
        flash_backend.span_forward(*inputs, layout, options, SCORING)


@pytest.mark.gpu
@LAYOUT
@pytest.mark.parametrize(
    ("dtype", "head_dim"), [(torch.float16, 64), (torch.bfloat16, 40), (torch.bfloat16, 128), (torch.bfloat16, 256)]
)
@pytest.mark.parametrize(
    ("attention", "settings"),
    [
        *(("span", span_options(*selection, retrieval="random")) for selection in SELECTIONS),
        *(("sliding_window", window) for window in (1, 7)),
        *(("shifted_sparse", group) for group in (0.25, 1)),
    ],
)
def test_gpu_agrees_with_plain_operations(layout, attention, settings, dtype, head_dim):
    forward, backward = (getattr(flash_backend, f"{attention}_{way}") for way in ("forward", "backward"))
    tensors = [
        x.to(dtype)
        for seed, heads in enumerate((6, 6, 2, 2))
        for x in random_inputs(layout.batch, heads, heads, layout.length, head_dim, seed=seed)[:1]
    ]
    found = []
    for device in ("cpu", "cuda"):
        grad, *inputs = (x.to(device) for x in tensors)
        output, *kept = forward(*inputs, layout, settings, SCORING)
        grads = backward(grad, Saved(*inputs, output, *kept), layout, settings, SCORING)
        found.append([x.cpu() for x in (output, kept[0], *grads)])
    for e, a in zip(*found, strict=True):
        assert (a.double() - e.double()).norm() <= 2e-2 * e.double().norm()
