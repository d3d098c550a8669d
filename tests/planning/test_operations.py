# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hylora.planning.operations import attention_operations, count_operations, is_attention
from hylora.planning.tracker import without_kernel
from hylora.planning.workspace import kernel_workspace
from hylora_kernels import ops, reference, shifted_sparse_attention, sliding_window_attention
from hylora_kernels.options import SpanOptions
from hylora_kernels.scoring import Scoring

GROUPED = torch.ops.aten._grouped_mm.default


class Record(TorchDispatchMode):
    """Keeps the calls under it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, output))
        return output

    @property
    def operations(self):
        return sum(count_operations(*call) for call in self.calls)


def test_a_product_takes_two_operations_per_pair():
    with Record() as record:
        F.linear(torch.ones(3, 5, 7), torch.ones(11, 7))
    assert record.operations == 2 * 15 * 7 * 11


def test_causal_attention_counts_what_is_seen():
    query, key = torch.randn(2, 4, 24, 8, requires_grad=True), torch.randn(2, 2, 24, 8, requires_grad=True)
    with Record() as forward:
        output = F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    assert forward.operations == 2 * attention_operations(4 * 8, 24)
    with Record() as backward:
        output.sum().backward()
    assert backward.operations == 2.5 * forward.operations
    (call,) = [call for call in backward.calls if is_attention(call[0])]
    # Gradients of the queries in float32, and those of keys and values for every query head.
    assert kernel_workspace(*call[:2]) == query.numel() * (4 + 2 * 4)
    assert all(kernel_workspace(*call[:2]) == 0 for call in forward.calls)


@pytest.mark.parametrize("transposed", [False, True])
def test_expert_products_have_the_shape_and_cost_of_the_real_ones(transposed):
    rows, wide, out, experts = 24, 8, 16, 3
    offsets = torch.tensor([8, 16, 24], dtype=torch.int32)
    if transposed:
        first, second = torch.randn(wide, rows), torch.randn(rows, out)
    else:
        first, second = torch.randn(rows, wide), torch.randn(experts, wide, out)
    real = GROUPED(first, second, offsets)
    assert without_kernel(GROUPED, (first, second, offsets), {}).shape == real.shape
    assert without_kernel(GROUPED, (first, second), {"offs": offsets}).dtype == real.dtype
    assert count_operations(GROUPED, (first, second, offsets), {}, real) == 2 * rows * wide * out


def test_other_operators_run_themselves():
    assert without_kernel(torch.ops.aten.mm.default, (torch.ones(2, 2), torch.ones(2, 2)), {}) is None


LENGTH = 150
SPAN = SpanOptions(16, 2, 64, "chunk", 1, "random", "attention", 0)


def seen(name, size):
    """Pairs of queries and keys that an attention of one head over LENGTH tokens sees, averaged over heads."""
    if name == "span":
        blocks = torch.arange(2).expand(1, 3, 2).clone()
        blocks[:, 0] = -1
        return reference.span_mask(LENGTH, blocks, SPAN).sum()
    attend = {"window": sliding_window_attention, "shifted": shifted_sparse_attention}[name]
    option = {"window": "window", "shifted": "group"}[name]
    # Values that are unit vectors make the weights the output.
    one_hot = torch.eye(LENGTH).expand(1, 2, LENGTH, LENGTH)
    weights = attend(torch.zeros_like(one_hot), torch.zeros_like(one_hot), one_hot, **{option: size})
    return (weights > 0).sum() / 2


@pytest.mark.parametrize(
    ("name", "size"), [("span", SPAN), ("window", 40), ("window", 400), ("shifted", 0.25), ("shifted", 31)]
)
def test_long_attention_counts_what_is_seen(name, size):
    operator = {
        "span": ops.span_attention,
        "window": ops.sliding_window_attention,
        "shifted": ops.shifted_sparse_attention,
    }[name]
    query, key = torch.randn(2, 4, LENGTH, 8, requires_grad=True), torch.randn(2, 2, LENGTH, 8, requires_grad=True)
    with Record() as forward:
        output = operator(query, key, key, None, None, size, Scoring(0.3), "torch")
    (call,) = [call for call in forward.calls if is_attention(call[0])]
    expected = int(2 * 2 * 2 * 4 * 8 * seen(name, size))
    assert count_operations(*call) == expected
    with FlopCounterMode(display=False) as counter:
        operator(query, key, key, None, None, size, Scoring(0.3), "torch")
    assert counter.get_total_flops() == expected
    with Record() as backward:
        output.sum().backward()
    (call,) = [call for call in backward.calls if is_attention(call[0])]
    assert count_operations(*call) == 2.5 * expected
    assert kernel_workspace(*call[:2]) > 0


def test_what_tokens_and_their_blocks_give_takes_memory_up_to_a_limit():
    """As the Triton kernels have it: for each query and block that it chose an output, and backward a gradient."""

    def workspaces(length, selection, **options):
        options = SpanOptions(16, 4, 64, selection, summary="mean_std", **options)
        query, key = torch.empty(1, 4, length, 8, device="meta"), torch.empty(1, 2, length, 8, device="meta")
        settings = (*ops.pack_options(options), 0.3, None, "triton")
        forward = (query, key, key, None, None, *settings)
        backward = (query, query, key, key, None, None, query, query[..., 0], query, *settings)
        names = ("span_attention", "span_attention_backward")
        overloads = (getattr(torch.ops.hylora_kernels, name).default for name in names)
        return [kernel_workspace(*call) for call in zip(overloads, (forward, backward), strict=True)]

    pairs = 4 * 4 * 150  # heads, slots and tokens
    forward, backward = workspaces(150, "token")
    assert forward == 4 * pairs * (8 + 1)
    assert 4 * pairs * 8 < backward < 3 * 4 * pairs * 8
    assert max(workspaces(150, "chunk")) < forward / 5
    summaries = 2 * 9 * 2 * 8  # of each KV head's whole blocks, numbers of two vectors
    halved = workspaces(150, "chunk", summary_dtype="bfloat16")[0]
    assert 2 * summaries <= workspaces(150, "chunk")[0] - halved <= 2 * summaries * 150 / 144
    assert max(workspaces(64, "token")) < 4 * 4 * 4 * 64 * 8  # one chunk reads no blocks
    assert workspaces(1 << 22, "token")[0] == workspaces(1 << 21, "token")[0] == 4 * (1 << 27) * 9 // 8
