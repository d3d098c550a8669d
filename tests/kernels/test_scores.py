# SPDX-License-Identifier: Apache-2.0
"""Scores with a bound, sinks, and values of another size than keys."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import (
    SequenceLayout,
    SpanOptions,
    block_attention,
    flash_backend,
    ops,
    select_blocks,
    shifted_sparse_attention,
    sliding_window_attention,
    span_attention,
)
from hylora_kernels import sinks as sinks_module
from hylora_kernels.plain import masked_attention
from hylora_kernels.scoring import Scoring
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.node_counter import NodeCounter
from tests.tolerances import assert_close

SPAN = {"block_size": 4, "top_k": 2, "chunk_size": 16}
TOKEN = {**SPAN, "selection": "token", "summary": "mean_std"}
FUNCTIONS = {
    "chunk": (span_attention, SPAN),
    "token": (span_attention, TOKEN),
    "one chunk": (span_attention, {"chunk_size": 64}),
    "window": (sliding_window_attention, {"window": 7}),
    "shifted": (shifted_sparse_attention, {"group": 0.3}),
}
ALL = pytest.mark.parametrize(("function", "options"), FUNCTIONS.values(), ids=FUNCTIONS)
PADDED = SequenceLayout(2, 37, ((0, 3, 30), (1, 0, 20), (1, 20, 16)))
LAYOUTS = pytest.mark.parametrize("layout", [None, PADDED], ids=["dense", "padded and packed"])
SCORES = pytest.mark.parametrize(
    ("softcap", "sinks"), [(1.5, False), (None, True), (1.5, True)], ids=["softcap", "sinks", "both"]
)


def inputs(sinks=True, dtype=torch.float64, kv_heads=2, value_dim=8, head_dim=8, length=37):
    """Query, key, value, and logits of four heads of which one weighs next to nothing and one nearly all."""
    query, key, _ = random_inputs(2, 4, kv_heads, length, head_dim, dtype)
    value = random_inputs(2, 4, kv_heads, length, value_dim, dtype, seed=2)[2]
    return (query, key, value, *([torch.linspace(-3, 4, 4, dtype=torch.float64).to(dtype)] if sinks else []))


def taking_sinks(function, **options):
    """The function of three tensors, or of four of which the last are the sinks."""
    return lambda query, key, value, sinks=None: function(query, key, value, sinks=sinks, **options)


def compare(actual, expected, dtype=None):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, dtype)


def by_formula(query, key, value, mask, scoring, sinks=None):
    """Attention under a mask, head by head as it is written down."""
    scale, softcap = scoring
    outputs = []
    for head in range(query.shape[1]):
        of_group = head * key.shape[1] // query.shape[1]
        scores = scale * query[:, head] @ key[:, of_group].mT
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = torch.exp(scores) * mask[:, head % mask.shape[1]]
        total = weights.sum(dim=-1, keepdim=True) + (0 if sinks is None else torch.exp(sinks[head]))
        outputs.append(weights / total.clamp(min=1e-300) @ value[:, of_group])
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("heads", [1, 4], ids=["one mask", "a mask per head"])
@SCORES
def test_attention_under_a_mask_is_its_formula(softcap, sinks, heads):
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(2, heads, 9, 37, generator=generator) < 0.4
    mask[1, :, 4] = False  # a query that sees nothing
    query, *others = inputs(sinks, value_dim=5)
    tensors = query[:, :, :9], *others

    def attend(function, mask):
        return lambda q, k, v, *of_heads: function(q, k, v, mask, Scoring(0.6, softcap), *of_heads)

    expected = output_and_gradients(attend(by_formula, mask), tensors)
    compare(output_and_gradients(attend(masked_attention, mask), tensors), expected)
    assert not expected[0][1, :, 4].any()
    everything = torch.ones(1, 1, 9, 37, dtype=torch.bool)
    assert_close(attend(masked_attention, None)(*tensors), attend(by_formula, everything)(*tensors))


@SCORES
def test_attention_under_a_mask_follows_autocast_as_torchs_own_does(softcap, sinks):
    tensors = inputs(sinks, dtype=torch.float32)
    halves = [x.bfloat16() for x in tensors[:3]]
    with torch.autocast("cpu", torch.bfloat16):
        actual = masked_attention(*tensors[:3], None, Scoring(0.6, softcap), *tensors[3:])
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, masked_attention(*halves, None, Scoring(0.6, softcap), *tensors[3:]))


def test_attention_under_a_mask_alone_is_torchs_own():
    mask = torch.ones(37, 37, dtype=torch.bool).tril()[None, None]
    tensors = *inputs(sinks=False), mask, Scoring(0.6)
    assert_close(masked_attention(*tensors), by_formula(*tensors))


@pytest.mark.parametrize("kv_heads", [2, 1])
@LAYOUTS
@SCORES
@ALL
def test_torch_gives_what_the_definition_does(function, options, softcap, sinks, layout, kv_heads):
    tensors = inputs(sinks, kv_heads=kv_heads)
    settings = {**options, "softcap": softcap, "layout": layout, "scale": 0.6}
    expected = output_and_gradients(taking_sinks(function, backend="reference", **settings), tensors)
    compare(output_and_gradients(taking_sinks(function, backend="torch", **settings), tensors), expected)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@ALL
def test_every_sequence_is_as_if_alone(function, options, backend):
    """Padding that holds no numbers reaches no output and no gradient, that of the sinks included."""
    *tensors, sinks = inputs()
    grad = random_inputs(2, 4, 2, 37, seed=1)[0]
    real = torch.zeros(2, 37, dtype=torch.bool)
    for row, start, length in PADDED.sequences:
        real[row, start : start + length] = True
    poisoned = [x.masked_fill(~real[:, None, :, None], float("nan")) for x in (*tensors, grad)]
    attend = taking_sinks(function, softcap=1.5, backend=backend, layout=PADDED, **options)
    *together, of_sinks = output_and_gradients(attend, (*poisoned[:3], sinks), poisoned[3])
    for row, start, length in PADDED.sequences:
        cut = [x[row : row + 1, :, start : start + length] for x in (*tensors, grad)]
        attend = taking_sinks(function, softcap=1.5, backend=backend, **options)
        *alone, share = output_and_gradients(attend, (*cut[:3], sinks), cut[3])
        compare((x[row : row + 1, :, start : start + length] for x in together), alone)
        of_sinks = of_sinks - share
    assert_close(of_sinks, torch.zeros_like(of_sinks))
    for x in together:
        assert (x.movedim(1, 3)[~real] == 0).all()


@pytest.mark.parametrize("own_chunk", [True, False], ids=["own", "alone"])
@LAYOUTS
@SCORES
def test_given_blocks(softcap, sinks, layout, own_chunk):
    """Gradients flow through the log-sum-exp with sinks too."""
    tensors = inputs(sinks)
    blocks = select_blocks(*tensors[:3], layout=layout, **TOKEN)
    settings = {"own_chunk": own_chunk, "layout": layout, "softcap": softcap, **TOKEN}

    def joined(backend):
        def attend(query, key, value, sinks=None):
            output, lse = block_attention(query, key, value, blocks, sinks=sinks, backend=backend, **settings)
            return torch.cat([output, lse.where(lse > float("-inf"), 0)[..., None]], dim=-1)

        return attend

    compare(output_and_gradients(joined("torch"), tensors), output_and_gradients(joined("reference"), tensors))
    of_heads = {"sinks": tensors[3]} if sinks else {}
    output, lse = block_attention(*tensors[:3], blocks, **of_heads, **settings)
    blind = torch.ones(2, 37, dtype=torch.bool) if layout else torch.zeros(2, 37, dtype=torch.bool)
    for row, start, length in layout.sequences if layout else ():
        blind[row, start : start + length] = False
    assert (lse.movedim(1, 2)[blind] == float("-inf")).all() and not output.movedim(1, 2)[blind].any()
    if sinks:  # who sees no key still sees the sink
        assert (lse.movedim(1, 2)[~blind] >= tensors[3] - 1e-9).all()


OPERATORS = {
    "span_attention": ("_span_forward", SpanOptions(**SPAN)),
    "sliding_window_attention": ("_sliding_window", 7),
    "shifted_sparse_attention": ("_shifted_sparse", 0.3),
}


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("name", OPERATORS)
def test_torch_accepts_the_operators_with_sinks(name, softcap):
    operator, option = OPERATORS[name]
    tensors = [x.requires_grad_() for x in inputs()]
    packed = ops.pack_options(option) if isinstance(option, SpanOptions) else (option,)
    call = *tensors, ops.sequence_table(PADDED), *packed, 0.6, softcap, "torch"
    torch.library.opcheck(getattr(ops, operator), call)


@pytest.mark.parametrize("backend", ["torch", "flash"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_put_sinks_into_every_backend(name, backend, monkeypatch):
    """Flash's runs on a CPU in plain operations."""
    monkeypatch.setattr(flash_backend, "unsupported", lambda *_: None)
    option = OPERATORS[name][1]
    function = {x.__name__: x for x, _ in FUNCTIONS.values()}[name]
    named = {"window": option} if option == 7 else {"group": option} if option == 0.3 else {"options": option}
    expected = output_and_gradients(taking_sinks(function, layout=PADDED, scale=0.6, **named), inputs())

    def attend(query, key, value, sinks):
        return getattr(ops, name)(query, key, value, sinks, PADDED, option, Scoring(0.6), backend)

    compare(output_and_gradients(attend, inputs()), expected)


def test_sinks_around_the_triton_kernels():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = [x.to(device) for x in inputs(dtype=torch.float32, head_dim=16, value_dim=16, length=35)]
    tensors[3][0] = float("-inf")  # which is no sink
    options = {
        "block_size": 8,
        "top_k": 1,
        "chunk_size": 16,
        "layout": SequenceLayout(2, 35, ((0, 4, 31), (1, 0, 35))),
    }
    results = [
        output_and_gradients(taking_sinks(span_attention, backend=backend, **options), tensors)
        for backend in ("triton", "reference")
    ]
    compare(*results)


@pytest.mark.parametrize("own_chunk", [True, False])
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_sink_of_minus_infinity_is_none(backend, own_chunk):
    """Also where it is all that a query could see: at padding, and in the first chunk without its own keys."""
    tensors, layout = inputs(), PADDED
    tensors[3][:2] = float("-inf")
    given = select_blocks(*tensors[:3], layout=layout, **SPAN)

    def attend(query, key, value, sinks=None):
        settings = {"own_chunk": own_chunk, "layout": layout, "backend": backend}
        return block_attention(query, key, value, given, sinks=sinks, **settings, **SPAN)[0]

    output, *grads, of_sinks = output_and_gradients(attend, tensors)
    assert_close(output[:, :2], attend(*tensors[:3])[:, :2])
    assert not of_sinks[:2].any() and of_sinks[2:].all()
    assert all(x.isfinite().all() for x in (output, *grads, of_sinks))


@SCORES
@pytest.mark.parametrize("name", ["chunk", "window", "shifted"])
def test_a_compiled_call_is_one_node(name, softcap, sinks):
    function, options = FUNCTIONS[name]
    torch._dynamo.reset()
    counter = NodeCounter()
    attend = taking_sinks(function, softcap=softcap, **options)
    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    compare(output_and_gradients(compiled, inputs(sinks)), output_and_gradients(attend, inputs(sinks)))
    assert counter.operators == {function.__name__: 1}


@pytest.mark.parametrize("sinks_dtype", [torch.float32, torch.bfloat16])
@ALL
def test_low_precision_stays_near_float64(function, options, sinks_dtype):
    *tensors, sinks = inputs(dtype=torch.bfloat16)
    attend = taking_sinks(function, softcap=1.5, **options)
    found = output_and_gradients(attend, (*tensors, sinks.to(sinks_dtype)))
    assert [x.dtype for x in found] == [torch.bfloat16] * 4 + [sinks_dtype]
    compare(found, output_and_gradients(attend, [x.double() for x in (*tensors, sinks)]), torch.bfloat16)


def test_the_gradient_of_sinks_a_head_at_a_time(monkeypatch):
    attend = taking_sinks(span_attention, **SPAN)
    expected = output_and_gradients(attend, inputs())
    monkeypatch.setattr(sinks_module, "_SLICE", 1)
    compare(output_and_gradients(attend, inputs()), expected)


def test_frozen_sinks_take_no_gradient():
    *tensors, sinks = inputs()
    leaves = [x.requires_grad_() for x in tensors]
    span_attention(*leaves, sinks=sinks, **SPAN).sum().backward()
    assert sinks.grad is None and all(x.grad is not None for x in leaves)


@pytest.mark.parametrize("value_dim", [5, 11], ids=["smaller", "larger"])
@pytest.mark.parametrize("backend", ["reference", "torch", "operator"])
@pytest.mark.parametrize("name", ["token", "one chunk", "window", "shifted"])
def test_values_of_another_size_are_computed_column_by_column(name, backend, value_dim):
    """Each column of the values gives the same column of the output, whatever the others are."""
    function, options = FUNCTIONS[name]
    options = {**options, "layout": PADDED, "softcap": 1.5}
    if name == "one chunk":
        options["summary"] = "mean_std"
    tensors = inputs(value_dim=value_dim)
    attend = taking_sinks(function, backend="torch" if backend == "operator" else backend, **options)
    if backend == "operator":
        torch._dynamo.reset()
        attend = torch.compile(attend, fullgraph=True, backend=NodeCounter())
    output, *_, value_grad, sinks_grad = output_and_gradients(attend, tensors)
    assert output.shape == (2, 4, 37, value_dim) and value_grad.shape == tensors[2].shape
    query, key, value, sinks = tensors
    columns = (torch.nn.functional.pad(x, (0, 8 - x.shape[-1])) for x in value.split(4, dim=-1))
    expected = [function(query, key, x, sinks=sinks, **options)[..., :4] for x in columns]
    assert_close(output, torch.cat(expected, dim=-1)[..., :value_dim])
    assert sinks_grad.any()


@pytest.mark.parametrize("summary", ["attention", "landmark"])
@pytest.mark.parametrize("function", [span_attention, select_blocks])
def test_queries_are_not_compared_with_values_of_another_size(function, summary):
    tensors = inputs(sinks=False, value_dim=5)
    message = f"summary='{summary}' compares queries, of 8 numbers per head, with values of 5; .*summary='mean_std'"
    with pytest.raises(ValueError, match=message):
        function(*tensors, **{**SPAN, "summary": summary})
    assert span_attention(*tensors, retrieval="none", summary=summary).shape[-1] == 5
    assert len(select_blocks(*tensors, **TOKEN)) == 2


@pytest.mark.parametrize("softcap", [0, -1.0, float("nan"), float("inf"), "1", True])
@ALL
def test_a_bound_that_is_none_is_refused(function, options, softcap):
    with pytest.raises(ValueError, match="softcap=.* must be a positive number, or None"):
        function(*inputs(sinks=False), softcap=softcap, **options)


@pytest.mark.parametrize(
    ("sinks", "message"),
    [
        (torch.zeros(2), r"sinks \(2,\) of torch.float32 must be one floating logit for each of the 4 query heads"),
        (torch.zeros(4, 1), r"sinks \(4, 1\)"),
        (torch.zeros(4, dtype=torch.int64), "of torch.int64 must be one floating"),
        (torch.zeros(4, device="meta"), "sinks lie on meta, query on cpu"),
    ],
)
@ALL
def test_sinks_that_do_not_fit_are_refused(function, options, sinks, message):
    with pytest.raises(ValueError, match=message):
        function(*inputs(sinks=False), sinks=sinks, **options)


def test_flash_attention_refuses_a_bound():
    query = torch.empty(1, 2, 8, 64, dtype=torch.float16)
    assert "softcap=2.5" in flash_backend.unsupported("span", query, SpanOptions(), 2.5)
    assert "softcap" not in flash_backend.unsupported("span", query, SpanOptions())
