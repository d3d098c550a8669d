# SPDX-License-Identifier: Apache-2.0
"""Attention to given blocks: the backends against the definition, its log-sum-exp, and the merging of two results."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, block_attention, merge_attention, select_blocks, span_attention
from hylora_kernels.options import SpanOptions
from tests.kernels.inputs import random_inputs
from tests.tolerances import assert_close

RULES = {
    "chunk": SpanOptions(block_size=8, chunk_size=16),
    "token": SpanOptions(block_size=8, chunk_size=16, selection="token"),
    "groups": SpanOptions(block_size=8, chunk_size=16, selection="causal", query_group=4),
}
LAYOUTS = {
    "dense": SequenceLayout.dense(2, 75),
    "padded and packed": SequenceLayout(3, 75, ((0, 11, 60), (1, 0, 37), (1, 37, 38))),
    "short": SequenceLayout(1, 21, ((0, 0, 3), (0, 3, 17))),
}
ALL_RULES = pytest.mark.parametrize("options", RULES.values(), ids=RULES)
ALL_LAYOUTS = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def some_blocks(layout, options, kv_heads=2, chance=0.5, seed=0):
    """Each candidate of each selection with this chance, -1 between them."""
    generator = torch.Generator().manual_seed(seed)
    k = max(options.candidates(options.units(length) - 1) for _, _, length in layout.sequences)
    given = []
    for _, _, length in layout.sequences:
        units = options.units(length)
        candidates = options.candidates(torch.arange(units))[:, None]
        block = torch.arange(k).expand(kv_heads, units, k)
        kept = (torch.rand(block.shape, generator=generator) < chance) & (block < candidates)
        given.append(block.where(kept, -1))
    return given


def inputs(layout, dtype=torch.float64, head_dim=8):
    return random_inputs(layout.batch, 4, 2, layout.length, head_dim, dtype)


def results(function, tensors, through=("output", "lse")):
    """Output, log-sum-exp, and gradients through either or both of them."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    output, lse = function(*leaves)
    seen = lse > float("-inf")
    generator = torch.Generator().manual_seed(1)
    weights = (torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in (output, lse))
    terms = {"output": output * next(weights), "lse": (lse * next(weights))[seen]}
    grads = torch.autograd.grad(sum(terms[name].sum() for name in through), leaves, materialize_grads=True)
    return [output.detach(), lse.detach(), *grads]


def compare(actual, expected, dtype=None):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, dtype)


@pytest.mark.parametrize("through", [("output",), ("lse",), ("output", "lse")], ids="+".join)
@pytest.mark.parametrize("own_chunk", [True, False], ids=["own", "alone"])
@ALL_RULES
@ALL_LAYOUTS
def test_torch_gives_what_the_definition_does(layout, options, own_chunk, through):
    blocks = some_blocks(layout, options)

    def attend(backend):
        return lambda *x: block_attention(
            *x, blocks, options, own_chunk=own_chunk, layout=layout, scale=0.3, backend=backend
        )

    expected = results(attend("reference"), inputs(layout), through)
    compare(results(attend("torch"), inputs(layout), through), expected)
    assert (expected[1] == float("-inf")).any() == (not own_chunk or layout is not LAYOUTS["dense"])


@ALL_RULES
def test_lists_that_are_alike_for_all_heads_are_gathered(options):
    layout = LAYOUTS["dense"]
    blocks = [x[:1].expand(2, -1, -1) for x in some_blocks(SequenceLayout.dense(1, 75), options, 1)] * 2

    def attend(backend):
        return lambda *x: block_attention(*x, blocks, options, own_chunk=False, backend=backend)

    compare(results(attend("torch"), inputs(layout)), results(attend("reference"), inputs(layout)))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@ALL_RULES
@ALL_LAYOUTS
def test_two_results_merge_to_that_over_all_blocks(layout, options, backend):
    blocks = some_blocks(layout, options, chance=0.8)
    near = [x.where(x % 2 == 0, -1) for x in blocks]
    far = [x.where(x % 2 == 1, -1) for x in blocks]
    settings = {"options": options, "layout": layout, "backend": backend}

    def merged(*x):
        return merge_attention(
            *block_attention(*x, near, **settings), *block_attention(*x, far, own_chunk=False, **settings)
        )

    def apart(*x):
        halves = (block_attention(*x, part, own_chunk=False, **settings) for part in (near, far))
        return merge_attention(*(x for half in halves for x in half))

    whole = results(lambda *x: block_attention(*x, blocks, **settings), inputs(layout))
    compare(results(merged, inputs(layout)), whole)
    whole = results(lambda *x: block_attention(*x, blocks, own_chunk=False, **settings), inputs(layout))
    compare(results(apart, inputs(layout)), whole)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@ALL_RULES
@ALL_LAYOUTS
def test_the_blocks_that_are_chosen_give_span_attention(layout, options, backend):
    tensors = inputs(layout)
    blocks = select_blocks(*tensors, options, layout=layout)
    output, _ = block_attention(*tensors, blocks, options, layout=layout, backend=backend)
    assert_close(output, span_attention(*tensors, options, layout=layout))


def test_the_order_of_blocks_does_not_matter():
    layout, options = LAYOUTS["dense"], RULES["chunk"]
    blocks = some_blocks(layout, options)
    turned = [x.flip(-1) for x in blocks]
    results = [block_attention(*inputs(layout), given, options) for given in (blocks, turned)]
    compare(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision(dtype):
    layout, options = LAYOUTS["padded and packed"], RULES["token"]
    blocks = some_blocks(layout, options)
    attend = lambda *x: block_attention(*x, blocks, options, layout=layout)  # noqa: E731
    found = results(attend, inputs(layout, dtype))
    assert [x.dtype for x in found] == [dtype, torch.float32, *[dtype] * 3]
    compare(found, [x.to(y) for x, y in zip(results(attend, inputs(layout)), found, strict=True)], dtype)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # the interpreter at the logarithm of nothing
@pytest.mark.parametrize("own_chunk", [True, False], ids=["own", "alone"])
@pytest.mark.parametrize("rule", [("chunk", 1, 32), ("token", 1, 16), ("causal", 4, 16)], ids=RULES)
def test_the_triton_kernels_too(rule, own_chunk):
    layout = SequenceLayout(2, 40, ((0, 3, 34), (1, 0, 37)))
    options = SpanOptions(block_size=8, chunk_size=rule[2], selection=rule[0], query_group=rule[1])
    blocks = some_blocks(layout, options, kv_heads=1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = [x.to(device) for x in random_inputs(2, 2, 1, 40, 16, torch.float32)]

    def attend(backend):
        return lambda *x: block_attention(*x, blocks, options, own_chunk=own_chunk, layout=layout, backend=backend)

    compare(results(attend("triton"), tensors), results(attend("reference"), tensors))


def test_without_a_sequence_there_is_nothing():
    layout = SequenceLayout(2, 5, ())
    output, lse = block_attention(*inputs(layout), [], layout=layout)
    assert not output.any() and (lse == float("-inf")).all()


def block(*numbers):
    """One row of 40 tokens, in chunks of 16: the last of three selections may have the first four blocks."""
    given = torch.full((1, 3, len(numbers)), -1)
    given[0, 2] = torch.tensor(numbers)
    return [given]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (block(4), "block 4 of selection 2 .*KV head 0, must be one of the 4 that end before the"),
        (block(-2), "block -2 of selection 2"),
        (block(3, 1, 3), "one block twice"),
        ([torch.zeros(1, 2, 1, dtype=torch.int64)], r"shapes \[\(1, 2, 1\)\] must be \[\(1, 3, 'k'\)\]"),
        ([], r"shapes \[\] must be"),
        (block(1) + block(1, 2), "one tensor for each sequence"),
        (block(1 << 32), "block 4294967296 of selection 2"),
        ([block(1)[0].double()], r"blocks\[0\] is torch.float64; must be a tensor of integers"),
        ([block(1)[0].bool()], r"blocks\[0\] is torch.bool"),
        ([block(1)[0].tolist()], r"blocks\[0\] is list; must be a tensor"),
    ],
)
def test_blocks_that_cannot_be_are_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        block_attention(*random_inputs(1, 2, 1, 40), blocks, RULES["chunk"])
