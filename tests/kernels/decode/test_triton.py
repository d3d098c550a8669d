# SPDX-License-Identifier: Apache-2.0
"""The decoding kernels against torch's own operations."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, SpanOptions, span_attention
from hylora_kernels.decode import DecodeState, span_decode
from hylora_kernels.triton_backend import decode as kernels
from hylora_kernels.triton_backend.launch import Launch, forced
from tests.kernels.decode.stepping import decode, empty_state
from tests.kernels.inputs import random_inputs
from tests.tolerances import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Small tiles, so that blocks, chunk and candidates take several.
TILES = {
    "decode_append": Launch(block_m=16, block_n=16, num_warps=4, num_stages=1),
    "decode_rank": Launch(block_m=2, block_n=2, num_warps=4, num_stages=1),
    "decode_attend": Launch(block_m=16, block_n=16, num_warps=4, num_stages=1),
    "decode_combine": Launch(block_m=2, block_n=16, num_warps=4, num_stages=1),
}
SELECTIONS = {
    "chunk": {"selection": "chunk"},
    "each": {"selection": "token"},
    "groups": {"selection": "causal", "query_group": 4},
}
ROUNDED = {"selection": "token", "summary": "mean_std", "summary_dtype": "bfloat16"}
SMALL = {"block_size": 16, "chunk_size": 36, "top_k": 2, "capacity": 96}


def check(inputs, first=60, **options):
    """From `first` on, the kernels give the outputs of the torch backend and leave its state."""
    inputs = [x.to(DEVICE) for x in inputs]
    options = {**SMALL, **options}
    expected_state, state = (DecodeState.from_prefill(*(x[:, :, :first] for x in inputs), **options) for _ in range(2))
    expected = decode(inputs, expected_state, first, backend="torch")
    with forced(**TILES):
        actual = decode(inputs, state, first, backend="triton")
    assert actual.dtype == expected.dtype
    assert_close(actual, expected)
    for one, other in zip(state.tensors(), expected_state.tensors(), strict=True):
        assert_close(one, other, torch.float32 if one.dtype == torch.int32 else inputs[0].dtype)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "selection"), [(6, 2, "chunk"), (1, 1, "each"), (3, 1, "groups")], ids=SELECTIONS
)
def test_steps_across_units_a_block_and_a_chunk(heads, kv_heads, selection):
    inputs = random_inputs(1, heads, kv_heads, 74, head_dim=16, dtype=torch.float32)
    check(inputs, first=61, **SELECTIONS[selection])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # the interpreter's
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_sinks_and_softcap(softcap):
    """As in the attention over all; scores here are near 0, and beyond what an exponential holds."""
    query, key, value = (x.to(DEVICE) for x in random_inputs(1, 4, 2, 66, head_dim=24, dtype=torch.float32))
    query[:, 0] *= 1000
    sinks = torch.tensor([1.0, -1.0, 0.0, 3.0], device=DEVICE)
    options = {"block_size": 16, "chunk_size": 36, "top_k": 1, "summary": "mean_std", "selection": "token"}
    expected = span_attention(query, key, value, softcap=softcap, sinks=sinks, backend="reference", **options)
    prompt = (x[:, :, :62] for x in (query, key, value))
    state = DecodeState.from_prefill(*prompt, capacity=96, softcap=softcap, **options)
    with forced(**TILES):
        actual = decode((query, key, value), state, 62, sinks=sinks, backend="triton")
    assert_close(actual, expected[:, :, 62:])


def test_steps_from_nothing():
    inputs = [x.to(DEVICE) for x in random_inputs(1, 1, 1, 18, head_dim=16, dtype=torch.float32)]
    state = empty_state(inputs, **{**SMALL, "chunk_size": 16})
    with forced(**TILES):
        actual = decode(inputs, state, backend="triton")
    assert_close(actual, span_attention(*inputs, backend="torch", block_size=16, chunk_size=16, top_k=2))


@pytest.mark.parametrize("selection", ["chunk", "token"])
@pytest.mark.parametrize("summary", ["mean_key", "landmark", "mean_std", "min_max", "gaussian"])
def test_a_block_is_summarised_and_then_a_candidate(summary, selection):
    inputs = random_inputs(1, 2, 1, 66, head_dim=24, dtype=torch.float32)
    check(inputs, first=63, chunk_size=64, selection=selection, summary=summary, seed=3)


def test_two_vectors_of_large_heads_and_sums_of_the_group_before():
    inputs = random_inputs(1, 2, 1, 66, head_dim=160, dtype=torch.float32)
    check(inputs, first=62, selection="causal", query_group=4, summary="mean_std")


@pytest.mark.parametrize(
    "variant", [{"retrieval": "none"}, {"top_k": 0}, {"top_k": 9}, {"block_size": 32}, {"block_size": 8}], ids=str
)
def test_retrieval(variant):
    check(random_inputs(1, 2, 1, 74, head_dim=16, dtype=torch.float32), first=70, **variant)


@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_head_dims_and_half_precision(dtype, head_dim):
    check(random_inputs(1, 2, 1, 66, head_dim=head_dim, dtype=dtype), first=62)


def test_equal_scores_choose_the_earlier_blocks():
    query, key, value = random_inputs(1, 2, 1, 66, head_dim=16, dtype=torch.float32)
    query, key = query.round(), key.round()  # so that sums are exact
    for first in (16, 32, 48):  # blocks of one mean, and of other values
        key[:, :, first : first + 16] = key[:, :, :16].roll(first // 16, dims=2)
    check((query, key, value), first=65, chunk_size=64, summary="mean_key")


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_bfloat16_summaries_are_stored_and_ranked(selection):
    """Of numbers that need no rounding, which the interpreter does not do: so it is not asked for by name."""
    inputs = [x.round().to(DEVICE) for x in random_inputs(1, 2, 1, 66, head_dim=24, dtype=torch.float32)]
    options = SpanOptions(16, 2, 48, **selection, summary="min_max", summary_dtype="bfloat16")
    prompt = [x[:, :, :62] for x in inputs]
    expected_state, state = (DecodeState.from_prefill(*prompt, options, capacity=96) for _ in range(2))
    expected = decode(inputs, expected_state, 62, backend="torch")
    tokens, layout = zip(*(x[:, :, 62:].split(1, dim=2) for x in inputs), strict=True), SequenceLayout.dense(1, 1)
    with forced(**TILES):
        steps = [kernels.span_decode(*token, layout, state.tensors(), options, state.scoring)[0] for token in tokens]
    assert_close(torch.cat(steps, dim=2), expected)
    assert state.summaries.dtype == torch.bfloat16
    for one, other in zip(state.tensors(), expected_state.tensors(), strict=True):
        assert torch.equal(one, other)


def test_queries_that_are_kept_and_strided_tokens():
    fused = torch.randn(1, 66, 8, 16, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    check((fused[:, :4], fused[:, 4:6], fused[:, 6:]), first=62, keep_queries=True)


def test_rows_of_different_length():
    lengths, inputs = [70, 0, 47], [x.to(DEVICE) for x in random_inputs(3, 2, 1, 74, head_dim=16, dtype=torch.float32)]
    layout = SequenceLayout(3, 70, tuple((row, 70 - n, n) for row, n in enumerate(lengths) if n))
    prompt = [x[:, :, :70] for x in inputs]
    states = [DecodeState.from_prefill(*prompt, layout=layout, **SMALL) for _ in range(2)]
    with forced(**TILES):
        actual = decode(inputs, states[0], 70, backend="triton")
    assert_close(actual, decode(inputs, states[1], 70, backend="torch"))
    assert states[0].lengths.tolist() == [74, 4, 51]


def test_what_memory_held_before_does_not_matter():
    inputs = [x.to(DEVICE) for x in random_inputs(1, 2, 1, 74, head_dim=16, dtype=torch.float32)]
    state, spoilt = (DecodeState.from_prefill(*(x[:, :, :70] for x in inputs), **SMALL) for _ in range(2))
    for x in (spoilt.key_cache, spoilt.value_cache):
        x[:, :, 70:] = float("nan")
    spoilt.summaries[:, :, 70 // 16 :] = float("nan")
    with forced(**TILES):
        assert torch.equal(*(decode(inputs, each, 70, backend="triton") for each in (state, spoilt)))


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # the interpreter's
@pytest.mark.filterwarnings("ignore:divide by zero encountered in log2")
def test_tokens_beyond_the_capacity_get_nan_and_spoil_nothing():
    """As replays of a CUDA graph can: the host is not asked."""
    inputs = [x.to(DEVICE) for x in random_inputs(2, 2, 1, 100, head_dim=16, dtype=torch.float32)]
    layout = SequenceLayout(2, 95, ((0, 0, 95), (1, 0, 40)))
    state = DecodeState.from_prefill(*(x[:, :, :95] for x in inputs), layout=layout, **SMALL)
    with forced(**TILES):
        decode(inputs, state, 95, 96, backend="triton")
        before, state.held = [x.clone() for x in state.tensors()], 0
        actual = decode(inputs, state, 96, 98, backend="triton")
    assert actual[0].isnan().all() and actual[1].isfinite().all()
    for name, x in zip(("key_cache", "value_cache"), before, strict=False):
        assert torch.equal(getattr(state, name)[0], x[0])


def test_what_has_no_kernel_is_refused():
    inputs = random_inputs(1, 2, 1, 1, head_dim=16, dtype=torch.float32)
    for option, reason in (
        ({"retrieval": "random"}, "random"),
        ({"block_size": 4}, "block_size=4"),
        ({"selection": "token", "summary": "representatives"}, "representatives"),
        *([({"summary_dtype": "bfloat16"}, "interpreter does not round")] if DEVICE == "cpu" else []),
    ):
        with pytest.raises(ValueError, match=f"{reason}.*use backend='torch'"):
            span_decode(*inputs, empty_state(inputs, **option), backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("selection", [*SELECTIONS.values(), ROUNDED], ids=[*SELECTIONS, "rounded"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(32, 8, 128), (6, 6, 64), (8, 1, 256), (10, 2, 80)])
def test_real_sizes(heads, kv_heads, head_dim, selection):
    lengths = (9000, 4090, 17)
    layout = SequenceLayout(3, 9000, tuple((row, 9000 - n, n) for row, n in enumerate(lengths)))
    inputs = [x.cuda() for x in random_inputs(3, heads, kv_heads, 9040, head_dim, dtype=torch.bfloat16)]
    prompt = [x[:, :, :9000] for x in inputs]
    states = [DecodeState.from_prefill(*prompt, layout=layout, **selection) for _ in range(2)]
    actual, expected = (
        decode(inputs, x, 9000, backend=name) for x, name in zip(states, ("auto", "torch"), strict=True)
    )
    assert_close(actual, expected)
    for one, other in zip(*(x.tensors() for x in states), strict=True):
        assert_close(one.float(), other.float(), torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_a_cuda_graph_of_one_step_decodes_all_that_follow(selection):
    options = {"chunk_size": 256, "top_k": 4, **selection}
    inputs = [x.cuda() for x in random_inputs(2, 8, 2, 700, 64, dtype=torch.bfloat16)]
    layout = SequenceLayout(2, 250, ((0, 0, 250), (1, 130, 120)))
    prompt = [x[:, :, :250] for x in inputs]
    eager, state = (DecodeState.from_prefill(*prompt, layout=layout, **options) for _ in range(2))
    expected = decode(inputs, eager, 250, backend="triton")

    state.reserve(450)
    token = [x[:, :, 250:251].clone() for x in inputs]
    outputs = [span_decode(*token, state)]  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = span_decode(*token, state)
    for position in range(251, 700):
        for static, x in zip(token, inputs, strict=True):
            static.copy_(x[:, :, position : position + 1])
        graph.replay()
        outputs.append(output.clone())
    assert torch.equal(torch.cat(outputs, dim=2), expected)
    assert state.lengths.tolist() == [700, 570]
