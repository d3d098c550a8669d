# SPDX-License-Identifier: Apache-2.0
"""The operators: what torch expects of them, and that they compute what the plain backend does."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import hylora_kernels
from hylora_kernels import (
    SequenceLayout,
    flash_backend,
    ops,
    select_blocks,
    shifted_sparse_attention,
    sliding_window_attention,
    span_attention,
)
from hylora_kernels.options import SpanOptions
from hylora_kernels.scoring import Scoring
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.tolerances import assert_close

SPAN = {"block_size": 16, "top_k": 2, "chunk_size": 32}
TOKEN = {**SPAN, "selection": "token", "summary": "mean_std"}
CAUSAL = {**SPAN, "selection": "causal", "query_group": 8}
LAYOUTS = {
    "dense": None,
    "padded and packed": SequenceLayout(2, 90, ((0, 11, 70), (1, 0, 37), (1, 37, 50))),
    "all padding": SequenceLayout(2, 90, ()),
}
FUNCTIONS = {
    "span": (span_attention, SPAN),
    "causal": (span_attention, CAUSAL),
    "short": (span_attention, {**SPAN, "chunk_size": 128}),
    "sliding": (sliding_window_attention, {"window": 24}),
    "shifted by a fraction": (shifted_sparse_attention, {"group": 0.25}),
    "shifted by tokens": (shifted_sparse_attention, {"group": 24}),
}


def inputs(dtype=torch.float64):
    return random_inputs(2, 4, 2, 90, head_dim=16, dtype=dtype)


def as_operator(function):
    """The same arguments through the operator of the torch backend."""

    def call(query, key, value, layout=None, **options):
        scoring = Scoring.of(query, None)
        if function is span_attention:
            options = SpanOptions(**options)
        else:
            (options,) = options.values()
        return getattr(ops, function.__name__)(query, key, value, None, layout, options, scoring, "torch")

    return call


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_operator_computes_what_the_plain_backend_does(name, layout):
    function, options = FUNCTIONS[name]
    options = {**options, "layout": LAYOUTS[layout]}
    plain = output_and_gradients(function, inputs(), backend="torch", **options)
    operator = output_and_gradients(as_operator(function), inputs(), **options)
    for actual, expected in zip(operator, plain, strict=True):
        assert_close(actual, expected)


def arguments(layout, options, backend, dtype, device="cpu"):
    """A call of the span operator on tensors in the memory order of transformers' models."""
    tensors = [x.to(device).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs(dtype)]
    settings = *ops.pack_options(SpanOptions(**options)), 0.25, None, backend
    return (*tensors, None, ops.sequence_table(LAYOUTS[layout]), *settings)


@pytest.fixture(params=["torch", "flash"])
def backend(request, monkeypatch):
    """Backends, on a CPU; flash's runs there on plain operations."""
    monkeypatch.setattr(flash_backend, "unsupported", lambda *_: None)
    return request.param


@pytest.mark.parametrize("layout", ["dense", "padded and packed"])
@pytest.mark.parametrize("options", [SPAN, CAUSAL], ids=["span", "causal"])
def test_torch_accepts_the_span_operators(options, layout, backend):
    call = arguments(layout, options, backend, torch.float64)
    torch.library.opcheck(ops._span_forward, call)
    torch.library.opcheck(ops._span_backward, backward_arguments(ops._span_forward, call))


@pytest.mark.parametrize("layout", [pytest.param("dense", marks=pytest.mark.slow), "padded and packed"])
@pytest.mark.slow
def test_torch_accepts_the_triton_span_operators(layout):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    call = arguments(layout, SPAN, "triton", torch.float32, device)
    # Changing shapes would be one more run in the interpreter, and changes no code of the backend.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops._span_forward, call, test_utils=checks)
    torch.library.opcheck(ops._span_backward, backward_arguments(ops._span_forward, call), test_utils=checks)


@pytest.mark.parametrize("layout", ["dense", "padded and packed"])
@pytest.mark.parametrize(("operator", "size"), [("_sliding_window", 24), ("_shifted_sparse", 0.25)])
def test_torch_accepts_the_rivals_operators(operator, size, layout, backend):
    tensors = [x.requires_grad_() for x in inputs()]
    call = (*tensors, None, ops.sequence_table(LAYOUTS[layout]), size, 0.25, None, backend)
    torch.library.opcheck(getattr(ops, operator), call)


def backward_arguments(forward, call):
    detached = [x.detach() for x in call[:3]]
    outputs = [x.detach() for x in forward(*call)]
    return (torch.randn_like(outputs[0]), *detached, *call[3:5], *outputs, *call[5:])


def test_results_have_the_strides_of_the_inputs():
    call = arguments("dense", SPAN, "torch", torch.float64)
    output, lse, blocks = ops._span_forward(*call)
    output.sum().backward()  # an expanded gradient, of strides 0
    assert output.stride() == call[0].stride()
    assert all(x.grad.stride() == x.stride() for x in call[:3])
    assert output.requires_grad and not lse.requires_grad and not blocks.requires_grad


def test_the_blocks_are_those_of_select_blocks():
    layout = LAYOUTS["padded and packed"]
    blocks = ops._span_forward(*arguments("padded and packed", CAUSAL, "torch", torch.float64))[2]
    expected = torch.cat(select_blocks(*inputs(), layout=layout, scale=0.25, **CAUSAL), dim=1)
    assert torch.equal(blocks[:, : expected.shape[1]].long(), expected)
    assert (blocks[:, expected.shape[1] :] == -1).all()


@pytest.mark.parametrize("function", [span_attention, sliding_window_attention])
def test_second_derivatives_are_refused(function):
    query, key, value = (x.requires_grad_() for x in inputs())
    options = SPAN if function is span_attention else {"window": 24}
    output = as_operator(function)(query, key, value, **options)
    (grad,) = torch.autograd.grad(output.sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad.sum().backward()


def test_options_are_an_object_or_single_values_or_both():
    expected = span_attention(*inputs(), **CAUSAL)
    assert torch.equal(span_attention(*inputs(), SpanOptions(**CAUSAL)), expected)
    assert torch.equal(span_attention(*inputs(), SpanOptions(**SPAN), selection="causal", query_group=8), expected)


def test_every_option_is_an_argument_of_the_operators():
    values = {"selection": "causal", "retrieval": "random", "summary": "mean_key", "summary_dtype": "bfloat16"}
    numbers = {"block_size": 3, "top_k": 5, "chunk_size": 14, "query_group": 7, "seed": -9}
    options = SpanOptions(**values, **numbers)
    assert ops.unpack_options(*ops.pack_options(options)) == options
    names = [argument.name for argument in torch.ops.hylora_kernels.span_attention.default._schema.arguments]
    assert names[5:-3] == [field.name for field in fields(SpanOptions)]


def test_no_operator_goes_into_the_cuda_graphs_of_a_compiler():
    names = [
        f"{name}_attention{part}"
        for name in ("span", "sliding_window", "shifted_sparse")
        for part in ("", "_backward")
    ]
    for name in (*names, "span_decode"):
        assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.hylora_kernels, name).default.tags, name


def test_a_layout_is_not_read_back(monkeypatch):
    """Neither the forward nor the backward makes a layout anew from the table that the operator is handed."""
    monkeypatch.setattr(SequenceLayout, "of", lambda *_: pytest.fail("read back"))
    layout = LAYOUTS["padded and packed"]
    output_and_gradients(as_operator(span_attention), inputs(), layout=layout, **SPAN)


def test_a_seed_of_any_size_is_taken():
    query, key, value = inputs()
    options = {**SPAN, "retrieval": "random", "seed": 2**64 + 5}
    assert torch.equal(
        as_operator(span_attention)(query, key, value, **options),
        span_attention(query, key, value, backend="torch", **{**options, "seed": 5}),
    )


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_nothing(use_reentrant):
    attend = as_operator(span_attention)

    def checkpointed(query, key, value):
        return checkpoint(lambda *x: attend(*x, **CAUSAL), query, key, value, use_reentrant=use_reentrant)

    expected = output_and_gradients(lambda *x: attend(*x, **CAUSAL), inputs())
    for actual, plain in zip(output_and_gradients(checkpointed, inputs()), expected, strict=True):
        assert torch.equal(actual, plain)


def test_autocast_reaches_no_operation_inside():
    query, key, value = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = as_operator(span_attention)(query, key, value, **SPAN)
    assert torch.equal(inside, as_operator(span_attention)(query, key, value, **SPAN))


def test_a_copy_under_another_name_has_operators_of_its_own(tmp_path):
    """The Hub's loader imports the package under a name that it makes up."""
    shutil.copytree(Path(hylora_kernels.__file__).parent, tmp_path / "copied_kernels")
    folder = str(tmp_path / "copied_kernels")
    spec = importlib.util.spec_from_file_location(
        "copied_kernels", f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    module = sys.modules["copied_kernels"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        assert torch.equal(module.span_attention(*inputs(), **SPAN), span_attention(*inputs(), **SPAN))
        assert torch.ops.copied_kernels.span_attention.default is not torch.ops.hylora_kernels.span_attention.default
    finally:
        for name in [name for name in sys.modules if name.startswith("copied_kernels")]:
            del sys.modules[name]


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["dense", "padded and packed"])
@pytest.mark.parametrize("backend", ["auto", "flash", "torch"])
def test_torch_accepts_the_operators_on_a_gpu(backend, layout):
    call = arguments(layout, SPAN, backend, torch.bfloat16, "cuda")
    torch.library.opcheck(ops._span_forward, call, rtol=1e-2, atol=1e-2)
    torch.library.opcheck(ops._sliding_window, (*call[:5], 24, 0.25, None, backend), rtol=1e-2, atol=1e-2)
    torch.library.opcheck(ops._shifted_sparse, (*call[:5], 0.25, 0.25, None, backend), rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [SPAN, TOKEN], ids=["span", "token"])
def test_a_cuda_graph_of_a_call_outlives_other_layouts(options):
    layout = LAYOUTS["padded and packed"]
    query, key, value = (x.cuda().requires_grad_() for x in random_inputs(2, 4, 2, 90, 32, torch.float16))

    def step():
        output = span_attention(query, key, value, layout=layout, **options)
        return output, *torch.autograd.grad(output, (query, key, value), output.detach())

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for length in range(40, 60):
        span_attention(query, key, value, layout=SequenceLayout(2, 90, ((0, 0, length), (1, 0, 90))), **options)
    torch.cuda.empty_cache()
    graph.replay()
    for actual, plain in zip(captured, expected, strict=True):
        assert torch.equal(actual, plain)
