# SPDX-License-Identifier: Apache-2.0
"""The functions inside `torch.compile`: one node each, and the same numbers."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, shifted_sparse_attention, sliding_window_attention, span_attention
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.node_counter import NodeCounter
from tests.tolerances import assert_close

FUNCTIONS = {
    "span": (span_attention, {"block_size": 4, "top_k": 2, "chunk_size": 16}),
    "sliding": (sliding_window_attention, {"window": 12}),
    "shifted": (shifted_sparse_attention, {"group": 0.25}),
}
LAYOUT = SequenceLayout(2, 50, ((0, 5, 40), (1, 0, 20), (1, 20, 30)))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("layout", [None, LAYOUT], ids=["dense", "padded and packed"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_call_is_one_node(name, layout):
    function, options = FUNCTIONS[name]
    counter = NodeCounter()
    compiled = torch.compile(lambda *x: function(*x, layout=layout, **options), fullgraph=True, backend=counter)
    inputs = random_inputs(2, 4, 2, 50)
    expected = output_and_gradients(function, inputs, layout=layout, **options)
    for actual, plain in zip(output_and_gradients(compiled, inputs), expected, strict=True):
        assert_close(actual, plain)
    assert counter.operators == {function.__name__: 1}


def test_one_graph_serves_all_lengths():
    counter = NodeCounter()
    _, options = FUNCTIONS["span"]
    compiled = torch.compile(lambda *x: span_attention(*x, **options), fullgraph=True, backend=counter, dynamic=True)
    for length in (50, 33, 81, 7):
        inputs = random_inputs(2, 4, 2, length)
        expected = output_and_gradients(span_attention, inputs, **options)
        for actual, plain in zip(output_and_gradients(compiled, inputs), expected, strict=True):
            assert_close(actual, plain)
    assert counter.graphs == 1


def test_a_graph_may_compute_its_layout():
    _, options = FUNCTIONS["span"]
    compiled = torch.compile(
        lambda *x, table: span_attention(*x, layout=table + 0, **options), fullgraph=True, backend=NodeCounter()
    )
    inputs = random_inputs(2, 4, 2, 50)
    expected = span_attention(*inputs, layout=LAYOUT, **options)
    assert torch.equal(compiled(*inputs, table=LAYOUT.table()), expected)
    assert torch.equal(span_attention(*inputs, layout=LAYOUT.table(), **options), expected)


def test_a_table_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"layout of shape \(4,\) must be \[sequences, 3\]"):
        span_attention(*random_inputs(2, 4, 2, 50), layout=torch.arange(4))


def test_autocast_inside_a_graph():
    _, options = FUNCTIONS["span"]
    compiled = torch.compile(lambda *x: span_attention(*x, **options), fullgraph=True, backend=NodeCounter())
    inputs = random_inputs(2, 4, 2, 50, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        actual = compiled(*inputs)
        expected = span_attention(*inputs, **options)
    assert actual.dtype == torch.bfloat16
    assert_close(actual, expected)


def test_options_are_checked_inside_a_graph():
    compiled = torch.compile(lambda *x: span_attention(*x, block_size=0), backend=NodeCounter())
    with pytest.raises(ValueError, match="block_size=0 must be an integer of at least 1"):
        compiled(*random_inputs(1, 2, 1, 8))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_inductor_gives_the_same(name):
    function, options = FUNCTIONS[name]
    compiled = torch.compile(lambda *x: function(*x, layout=LAYOUT, **options) * 2, fullgraph=True)
    inputs = random_inputs(2, 4, 2, 50)
    expected = output_and_gradients(lambda *x: function(*x, layout=LAYOUT, **options) * 2, inputs)
    for actual, plain in zip(output_and_gradients(compiled, inputs), expected, strict=True):
        assert_close(actual, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [None, LAYOUT], ids=["dense", "padded and packed"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_inductor_on_a_gpu(name, layout):
    function, options = FUNCTIONS[name]
    if name == "span":
        options = {"block_size": 16, "top_k": 2, "chunk_size": 16}
    compiled = torch.compile(lambda *x: function(*x, layout=layout, **options), fullgraph=True)
    inputs = [x.cuda() for x in random_inputs(2, 4, 2, 50, head_dim=32, dtype=torch.bfloat16)]
    expected = output_and_gradients(function, inputs, layout=layout, **options)
    for actual, plain in zip(output_and_gradients(compiled, inputs), expected, strict=True):
        assert_close(actual, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_compiler_with_cuda_graphs_gives_the_same_for_many_lengths(name):
    function, options = FUNCTIONS[name]
    if name == "span":
        options = {"block_size": 16, "top_k": 2, "chunk_size": 16}
    compiled = torch.compile(
        lambda *x: function(*(y * 2 for y in x), **options) * 2, mode="reduce-overhead", dynamic=False
    )
    for length in (50, 33, 50):
        inputs = [x.cuda() for x in random_inputs(2, 4, 2, length, head_dim=32, dtype=torch.bfloat16)]
        expected = output_and_gradients(lambda *x: function(*(y * 2 for y in x), **options) * 2, inputs)
        for _ in range(4):  # to warm up, to capture, and to replay
            torch.compiler.cudagraph_mark_step_begin()
            for actual, plain in zip(output_and_gradients(compiled, inputs), expected, strict=True):
                assert_close(actual, plain)
